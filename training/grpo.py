"""
Trains the LLM of OTDRG by a clinical reward with TRL's GRPOTrainer.

    accelerate launch training/grpo.py --config training/recipes/phantom_hard_grpo.yaml [--any_field value]

Fields are those of `RewardArguments` (training/reward_arguments.py), TRL's `GRPOConfig` and TRL's `ModelConfig`. The
command line wins over the file. An interrupted run resumes from its last complete checkpoint.
"""

import sys
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from transformers import set_seed
from trl import GRPOConfig, ModelConfig
from yaml import YAMLError

from otdrg_hf.files import write_json
from otdrg_hf.hub.provenance import transfer_line
from otdrg_hf.training.adapters import policy_adapter_config, put_on_base
from otdrg_hf.training.arguments import RecipeParser
from otdrg_hf.training.checkpoints import begin_run, check_same_run, last_complete_checkpoint, starting_checkpoint
from otdrg_hf.training.dry_run import dry_run
from otdrg_hf.training.feature_cache import fill_cache, undecoded
from otdrg_hf.training.model_setup import checkpoint_fields, prepare_model
from otdrg_hf.training.record import training_data, write_record
from otdrg_hf.training.reward_arguments import RewardArguments, check_reward_options
from otdrg_hf.training.reward_trainer import CollapseStop, OTDRGRewardTrainer, reward_columns
from otdrg_hf.training.rewards import Reward, check_rewards, load_rewards
from otdrg_hf.training.sft import save
from otdrg_hf.training.stages import apply_stage, cast_backbones
from otdrg_hf.training.studies import check_context, load_studies
from otdrg_hf.training.transfer import COUNTS, TRANSFER_FILE, TransferWatch, load_watched

PROBED = 4  # references that each reward is tried on before the first step


def main(arguments: list[str] | None = None) -> None:
    """The command line; mistakes of a user are one line on stderr and exit code 2."""
    try:
        args, training_args, model_args = RecipeParser(RewardArguments, GRPOConfig).parse_args_and_config(arguments)
        check_reward_options(args, training_args, model_args)
        if args.dry_run:
            PartialState().print(dry_run(args, training_args, model_args))
            return
        trainer, watch, collapse = set_up(args, training_args, model_args)
    except (ValueError, OSError, ImportError, YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)

    trainer.train(resume_from_checkpoint=begin_run(args, training_args, model_args))
    if collapse.reason:
        return_to_last_checkpoint(trainer, collapse.reason)

    compared = watch.compare()
    save(trainer)
    if trainer.is_world_process_zero():
        write_json(Path(training_args.output_dir, TRANSFER_FILE), compared, indent=None)
        write_record(trainer, args, model_args, describe_reward(args, trainer, compared, collapse.reason))
    PartialState().print(f"Samples left out: {describe_left_out(trainer)}.")
    PartialState().print(transfer_line(compared))


def set_up(
    args: RewardArguments, training_args: GRPOConfig, model_args: ModelConfig
) -> tuple[OTDRGRewardTrainer, TransferWatch, CollapseStop]:
    """
    Loads studies, rewards and model, and freezes all but the LLM.

    Raises:
        ValueError, OSError: in one line, for what a user has to change.
    """
    set_seed(training_args.seed)
    # Log-probabilities of the rollout and of the loss have to be those of one model.
    training_args.disable_dropout = True
    check_start(model_args.model_name_or_path)
    checkpoint = starting_checkpoint(training_args, args.resume)
    if checkpoint:
        check_same_run(checkpoint, args, training_args, model_args)

    # Studies and rewards
    train = load_studies(args, "train", args.train_studies, None)
    together = training_args.generation_batch_size // training_args.num_generations
    if len(train) < together:
        raise ValueError(
            f"There are {len(train)} training studies, fewer than the {together} that are sampled together: lower "
            "per_device_train_batch_size or gradient_accumulation_steps, or raise num_generations."
        )
    watched = load_watched(args, load_studies(args, "validation", args.eval_studies, None))
    rewards = try_rewards(args, train)
    training_args.reward_weights = list(args.rewards.values())

    # The policy: the LLM, or adapters on it
    model, processor = prepare_model(args, training_args, model_args, train)
    model.config.training_data = training_data(args, model_args, train)
    for studies in (train, *(each.studies for each in watched)):
        check_context(studies, processor, args.target)
    apply_stage(model, args.stage, processor.label_prompt)
    peft_config = policy_adapter_config(model, model_args)
    cast_backbones(model, args.frozen_dtype, adapted=peft_config is not None)
    if peft_config is not None:
        model = put_on_base(model, processor, training_args.output_dir, model_args)
        apply_stage(model, args.stage, processor.label_prompt)

    features = None
    if args.feature_cache:
        model.to(training_args.device)
        features = fill_cache(args.feature_cache, model, processor, (train, *(each.studies for each in watched)))
        train = undecoded(train)
        watched = [replace(each, studies=undecoded(each.studies)) for each in watched]

    watch = TransferWatch(watched, processor, training_args.max_completion_length, features)
    if checkpoint:
        watch.read_before(training_args.output_dir)
    collapse = CollapseStop(args.min_distinct_share, args.min_entropy_share)
    trainer = OTDRGRewardTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=watched[0].studies,
        processing_class=processor,
        rewards=rewards,
        target=args.target,
        features=features,
        peft_config=peft_config,
        callbacks=[watch, collapse],
    )
    watch.trainer = trainer
    return trainer, watch, collapse


def check_start(path: str) -> None:
    """`ValueError` for an adapter, and for a checkpoint whose LLM was not trained to write reports."""
    if Path(path, "adapter_config.json").is_file():
        raise ValueError(f"model_name_or_path {path} is an adapter: merge it, by otdrg merge {path} {path}_merged.")
    if not checkpoint_fields(path).get("trained_on_reports", True):
        raise ValueError(
            f"model_name_or_path {path} was not trained to write reports: fine-tune it by training/sft.py first."
        )


def try_rewards(args: RewardArguments, train: Dataset) -> dict[str, Reward]:
    """The rewards, each of which has given as many numbers as there are reports."""
    rewards = load_rewards(args.rewards, train[args.target], args.recall_emphasis, args.rare_label_power)
    few = train.remove_columns("images").select(range(min(PROBED, len(train)))).to_list()
    columns = reward_columns(few, args.target, [study[args.target] for study in few])
    check_rewards(rewards, {**columns, "shown": columns["labels"], "trainer_state": None})
    return rewards


def return_to_last_checkpoint(trainer: OTDRGRewardTrainer, reason: str) -> None:
    """Loads the last checkpoint of a run that has collapsed, or ends it."""
    checkpoint, state = last_complete_checkpoint(trainer.args.output_dir), PartialState()
    if checkpoint is None:
        state.print(f"error: The policy has collapsed before the first checkpoint: {reason}.", file=sys.stderr)
        sys.exit(1)
    state.print(f"The policy has collapsed: {reason}. Keeping {Path(checkpoint).name}.")
    trainer._load_from_checkpoint(checkpoint)


def describe_left_out(trainer: OTDRGRewardTrainer) -> str:
    return ", ".join(f"{count} {name}" for name, count in trainer.left_out.items())


def describe_reward(args: RewardArguments, trainer: OTDRGRewardTrainer, compared: list, collapse: str | None) -> dict:
    """What the record says of the rewards, on top of what it says of each stage."""
    training_args = trainer.args
    return {
        "rewards": args.rewards,
        "reward_options": {
            **{name: getattr(args, name) for name in ("recall_emphasis", "rare_label_power")},
            **{
                name: getattr(training_args, name)
                for name in ("num_generations", "num_iterations", "temperature", "beta", "epsilon", "loss_type")
            },
        },
        "left_out": trainer.left_out,
        "collapse": collapse,
        # The record travels with the weights, and what it says of studies is about all of them.
        "transfer": [{key: value for key, value in each.items() if key != COUNTS} for each in compared],
    }


if __name__ == "__main__":
    main()
    # Left to the end of the interpreter, the threads of gloo abort it now and then.
    PartialState().destroy_process_group()
