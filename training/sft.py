"""
Trains OTDRG with TRL's SFTTrainer.

    accelerate launch training/sft.py --config training/recipes/phantom_align.yaml [--any_field value]

Fields are those of `StudyArguments` (training/arguments.py), TRL's `SFTConfig` and TRL's `ModelConfig`. The command
line wins over the file. An interrupted run resumes from its last complete checkpoint.
"""

import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import set_seed
from trl import ModelConfig, SFTConfig
from yaml import YAMLError

from otdrg_hf.files import write_json
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.training.adapters import adapter_config, put_on_base
from otdrg_hf.training.arguments import LABEL_RATES, RecipeParser, StudyArguments
from otdrg_hf.training.augmentation import Augmentation
from otdrg_hf.training.calibration import calibrate, describe_inputs
from otdrg_hf.training.checkpoints import begin_run, check_same_run, starting_checkpoint
from otdrg_hf.training.collator import IndicationDropout, OtherStates, StudyCollator
from otdrg_hf.training.disease_metrics import disease_metrics
from otdrg_hf.training.dry_run import dry_run
from otdrg_hf.training.feature_cache import fill_cache, undecoded
from otdrg_hf.training.frozen_blocks import FrozenBlocks
from otdrg_hf.training.model_setup import check_source, prepare_model
from otdrg_hf.training.options import check_batches, check_options, check_packages
from otdrg_hf.training.record import training_data, write_record
from otdrg_hf.training.report_metrics import ReportMetrics
from otdrg_hf.training.shown_labels import ChangedReports, ShownLabels
from otdrg_hf.training.stages import apply_stage, batch_norms, cast_backbones
from otdrg_hf.training.studies import check_context, load_studies
from otdrg_hf.training.trainer import OTDRGTrainer


def main(arguments: list[str] | None = None) -> None:
    """The command line; mistakes of a user are one line on stderr and exit code 2."""
    try:
        args, training_args, model_args = RecipeParser().parse_args_and_config(arguments)
        check_options(args, training_args, model_args)
        if args.dry_run:
            PartialState().print(dry_run(args, training_args, model_args))
            return
        trainer = set_up(args, training_args, model_args)
    except (ValueError, OSError, ImportError, YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)

    trainer.train(resume_from_checkpoint=begin_run(args, training_args, model_args))

    save(trainer)
    if trainer.is_world_process_zero():
        write_record(trainer, args, model_args)
    # Last: a calibration that fails loses no weights. The warm-up does not touch the disease head.
    if args.stage != "warmup":
        calibrate(trainer, trainer.eval_dataset)
        describe_inputs(trainer, trainer.train_dataset)


def set_up(args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig) -> OTDRGTrainer:
    """
    Loads studies and model, and prepares both for the stage.

    Raises:
        ValueError, OSError: in one line, for what a user has to change.
    """
    set_seed(training_args.seed)
    # Image tokens are part of the prompt: truncation to TRL's default length would drop them.
    training_args.max_length = None
    check_packages(training_args, model_args)
    check_source(args, model_args)
    checkpoint = starting_checkpoint(training_args, args.resume)
    if checkpoint:
        check_same_run(checkpoint, args, training_args, model_args)

    # Studies
    train = load_studies(args, "train", args.train_studies, training_args.dataset_num_proc)
    validation = load_studies(args, "validation", args.eval_studies, training_args.dataset_num_proc)
    check_batches(training_args, len(train), len(validation))

    # Model, with what it learns from in its configuration
    model, processor = prepare_model(args, training_args, model_args, train)
    model.config.training_data = training_data(args, model_args, train)
    text_only = args.stage == "warmup"
    for studies in (train, validation):
        check_context(studies, processor, args.target, text_only)

    # What is trained, what is frozen, and what gets an adapter
    image_size = processor.image_processor.size["height"], processor.image_processor.size["width"]
    stage = (args.stage, processor.label_prompt, image_size, args.freeze_vision, args.train_vision_blocks)
    frozen = apply_stage(model, *stage)
    peft_config = adapter_config(model, model_args, args.stage, args.lora_vision, image_size)
    cast_backbones(model, args.frozen_dtype, adapted=peft_config is not None)
    if peft_config is not None:
        model = put_on_base(model, processor, training_args.output_dir, model_args)
        frozen = apply_stage(model, *stage)
    if not args.vision_config:
        frozen += batch_norms(model)

    # Images: read in every epoch, encoded once, as far as the encoder is frozen, or not at all
    features = None
    if args.feature_cache:
        model.to(training_args.device)
        tower, trained = model.model.vision_tower, args.train_vision_blocks
        blocks = None if trained is None else FrozenBlocks(tower, trained)
        features = fill_cache(args.feature_cache, model, processor, (train, validation), blocks)
    if features is not None or text_only:
        train, validation = undecoded(train), undecoded(validation)

    collator, train_collator = collators(args, processor, train, features, training_args.seed)
    num_reports = args.generate_eval_studies
    return OTDRGTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_collator=train_collator,
        learning_rates={
            "vision_tower": args.vision_learning_rate,
            **dict.fromkeys(("language_model", "lm_head"), args.text_learning_rate),
        },
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        compute_metrics=None if text_only else disease_metrics(model.config),
        peft_config=peft_config,
        stage=args.stage,
        frozen_modules=frozen,
        report_metrics=ReportMetrics(processor, args.target, num_reports, features=features) if num_reports else None,
    )


def collators(
    args: StudyArguments, processor: OTDRGProcessor, train: Dataset, features, seed: int
) -> tuple[StudyCollator, StudyCollator]:
    """Collators of evaluation, and of training, which may change images and the labels that the LLM is shown."""
    text_only = args.stage == "warmup"
    common = {
        "target": args.target,
        "features": features,
        "others": None if text_only else OtherStates(np.array(train["disease_labels"])),
        "text_only": text_only,
    }
    shown = None
    if any(getattr(args, name) for name in LABEL_RATES):
        changed = ChangedReports(train[args.target]) if args.changed_report_rate else None
        shown = ShownLabels(
            args.predicted_label_rate, args.changed_report_rate, args.overridden_label_rate, changed, seed
        )
    of_training = {
        "shown": shown,
        "finding_weight": args.finding_weight,
        "augmentation": Augmentation(seed) if args.augment else None,
        "indication_dropout": IndicationDropout(args.indication_dropout, seed) if args.indication_dropout else None,
    }
    return StudyCollator(processor, **common), StudyCollator(processor, **common, **of_training)


def save(trainer: OTDRGTrainer) -> None:
    """Saves the model, its processor and the log of the run in `output_dir`."""
    folder = Path(trainer.args.output_dir)
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        # A pickle with paths of this machine, which the model's folder, made to be shared, can do without.
        Path(folder, "training_args.bin").unlink(missing_ok=True)
        write_json(folder / "training_log.json", trainer.state.log_history)


if __name__ == "__main__":
    main()
    # Left to the end of the interpreter, the threads of gloo abort it now and then.
    PartialState().destroy_process_group()
