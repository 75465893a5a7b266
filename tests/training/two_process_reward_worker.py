"""Run by torch.distributed in each of two processes: clinical-reward training, saving what each process ends with."""

import os
import sys
from pathlib import Path

import torch
from tiny_rewards import write_recipe
from trl import GRPOConfig

from otdrg_hf.training.arguments import RecipeParser
from otdrg_hf.training.grpo import set_up
from otdrg_hf.training.reward_arguments import RewardArguments, check_reward_options

REWARDS = {"tiny_rewards:seen_words": 1.0, "rouge_l": 0.5, "tiny_rewards:constant": 1.0}


def train(folder: Path, data: Path, start: Path, batch_size: int):
    """Two steps of plain gradient descent on four studies, each with four samples."""
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(
        folder,
        data,
        start,
        rewards=REWARDS,
        per_device_train_batch_size=batch_size,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        ddp_find_unused_parameters=False,
    )
    parsed = RecipeParser(RewardArguments, GRPOConfig).parse_args_and_config(["--config", recipe])
    check_reward_options(*parsed)
    trainer, watch, _ = set_up(*parsed)
    trainer.train()
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    return trained, trainer.state.log_history, watch.compare()


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    folder = Path(sys.argv[1])
    torch.save(train(folder / f"run-{rank}", folder / "data", folder / "start", 8), folder / f"{rank}.pt")
    torch.distributed.barrier()
    # Ended in the ordinary way, the threads of gloo abort a process now and then; all is written by here.
    sys.stdout.flush()
    os._exit(0)
