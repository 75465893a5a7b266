"""Run by torch.distributed in each of two processes: FSDP2 on the CPU, and runs that another number goes on with."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from tiny_training import small_chunks, speak_up, tiny_model, tiny_studies, tiny_trainer
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from otdrg_hf.training.report_metrics import ReportMetrics

STEPS, GLOBAL_BATCH = 4, 4
CASES = ("joint", "lora", "chunks")
LOSSES = ("loss", "lm_loss", "ot_loss", "disease_loss")


def make_trainer(folder: Path, batch_size: int, lora: bool = False, **options):
    """Steps of plain gradient descent, in which a wrong scale of the loss shows as a wrong step."""
    return tiny_trainer(
        folder,
        tiny_studies(STEPS * GLOBAL_BATCH),
        built=tiny_model(),
        stage="finetune" if lora else "joint",
        lora=lora,
        optim="sgd",
        learning_rate=0.05,
        max_grad_norm=0.0,
        max_steps=STEPS,
        per_device_train_batch_size=batch_size,
        ddp_find_unused_parameters=False,
        **options,
    )


def train(folder: Path, processes: int, resume: str | None = None) -> list[dict]:
    """The losses of each step of a run that saves a checkpoint at half of it."""
    trainer = make_trainer(folder, GLOBAL_BATCH // processes, save_strategy="steps", save_steps=STEPS // 2)
    trainer.train(resume_from_checkpoint=resume)
    return [{name: entry[name] for name in LOSSES} for entry in trainer.state.log_history if "lm_loss" in entry]


def shard(model: torch.nn.Module) -> None:
    """As accelerate does with TRANSFORMER_BASED_WRAP: the layers of both backbones, then the rest."""
    layers = set(model._no_split_modules)
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module)
    fully_shard(model)


def sharded_steps(folder: Path, lora: bool, rank: int = 0, processes: int = 1) -> tuple[list[float], dict]:
    """Losses of the trainer on the whole batch of each step, and the weights at the end; sharded if by several."""
    trainer = make_trainer(folder, GLOBAL_BATCH // processes, lora)
    model = trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # which the loop of the trainer sets
    if processes > 1:
        shard(model)
        assert all(value.to_local().numel() < value.numel() for value in model.parameters() if value.shape[0] > 1)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    losses, size = [], GLOBAL_BATCH // processes
    for step in range(STEPS):
        rows = [trainer.train_dataset[GLOBAL_BATCH * step + index] for index in range(GLOBAL_BATCH)]
        tokens = (trainer.data_collator(rows)["labels"][:, 1:] != -100).sum()
        batch = trainer.data_collator(rows[rank * size : (rank + 1) * size])
        loss = trainer.compute_loss(model, batch, num_items_in_batch=tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(trainer.accelerator.gather(loss.detach()).mean().item())
    return losses, get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def sharded_reports(folder: Path, lora: bool, rank: int) -> tuple[list[str], list[str]]:
    """Reports of an evaluation, those of the first process a token long, before and after the model is sharded."""
    trainer = make_trainer(folder, 2, lora, per_device_eval_batch_size=2)
    speak_up(trainer.model.get_base_model() if lora else trainer.model)
    if rank == 0:
        trainer.model.generation_config.eos_token_id = list(range(trainer.model.config.text_config.vocab_size))
    metrics = ReportMetrics(trainer.processing_class, "report", 6, max_new_tokens=8)
    whole = metrics.write_reports(trainer, tiny_studies(6))
    shard(trainer.model)
    trainer.evaluate(tiny_studies(2))  # as comes before it in a run
    return whole, metrics.write_reports(trainer, tiny_studies(6))


if __name__ == "__main__":
    task, folder, resume = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if task == "train":
        result = train(folder / "run", 2, *resume)
    elif task == "reports":
        # A process that waits for one that has ended fails.
        torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=3))
        rank = torch.distributed.get_rank()
        result = {case: sharded_reports(folder / case, case == "lora", rank) for case in ("joint", "lora")}
    else:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
        result = {}
        for case in CASES:
            with small_chunks(case == "chunks"):
                result[case] = sharded_steps(folder / f"sharded-{case}", case == "lora", rank, 2)
    if torch.distributed.get_rank() == 0:
        torch.save(result, folder / f"{task}.pt")
    torch.distributed.barrier()
    # Ended in the ordinary way, the threads of gloo abort a process now and then; all is written by here.
    sys.stdout.flush()
    os._exit(0)
