"""
Trains OTDRG with TRL's SFTTrainer.

    accelerate launch training/sft.py --config training/recipes/phantom_align.yaml [--any_field value]

Fields are those of `StudyArguments` (training/arguments.py), TRL's `SFTConfig` and TRL's `ModelConfig`. The command
line wins over the file. A run that was cut off goes on from its last complete checkpoint.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import is_peft_model
from transformers import set_seed
from trl import ModelConfig, SFTConfig
from yaml import YAMLError

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.schema import PHANTOM_NAMES
from otdrg_hf.labeling import label_reports
from otdrg_hf.modeling.disease_states import POSITIVE, positive_log_odds
from otdrg_hf.training.adapters import adapter_config, put_on_base
from otdrg_hf.training.arguments import LABEL_RATES, RecipeParser, StudyArguments
from otdrg_hf.training.augmentation import Augmentation
from otdrg_hf.training.calibration import compose, expected_calibration_error, platt_scaling
from otdrg_hf.training.changed_reports import ChangedReports
from otdrg_hf.training.checkpoints import check_same_run, last_complete_checkpoint
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.context import check_context
from otdrg_hf.training.disease_metrics import best_thresholds, disease_metrics, state_priors
from otdrg_hf.training.dry_run import dry_run
from otdrg_hf.training.feature_cache import FeatureCache, cache_size, encoder_checksum, undecoded
from otdrg_hf.training.model_setup import apply_text_options, load_model_and_processor
from otdrg_hf.training.options import check_batches, check_options, check_packages
from otdrg_hf.training.other_states import OtherStates
from otdrg_hf.training.record import training_data, write_record
from otdrg_hf.training.report_metrics import ReportMetrics
from otdrg_hf.training.shown_labels import ShownLabels
from otdrg_hf.training.stages import apply_stage, batch_norms, cast_backbones
from otdrg_hf.training.trainer import OTDRGTrainer

PHANTOM_NOTICE = "Trained on synthetic phantoms only: a demonstration, not for clinical use."


def load_studies(args: StudyArguments, split: str, num_studies: int | None, num_proc: int | None):
    """The studies of a split that have the target text, with labels from where the run wants them."""
    options = dict(args.load_kwargs)
    if args.dataset in PHANTOM_NAMES and num_studies:
        options["num_studies"] = num_studies
    try:
        studies = load_study_dataset(args.dataset, split=split, **options)
    except TypeError as error:
        raise ValueError(f"load_kwargs: {error}") from error
    if num_studies and num_studies < len(studies):
        studies = studies.select(range(num_studies))
    if args.labels_from == "labeler":
        # Before any study is left out: a column added after that would copy the others, images and all.
        labels = label_reports(studies["report"], num_proc=num_proc)
        feature = studies.features["disease_labels"]
        studies = studies.remove_columns("disease_labels").add_column("disease_labels", list(labels), feature=feature)
    kept = [index for index, text in enumerate(studies[args.target]) if text.strip()]
    if not kept:
        raise ValueError(f"No {split} study of {args.dataset} has a text in its column {args.target}.")
    if len(kept) < len(studies):
        left_out = len(studies) - len(kept)
        PartialState().print(f"{split}: {left_out} of {len(studies)} studies have no {args.target} and are left out.")
        studies = studies.select(kept)
    return studies


def calibrate(trainer: OTDRGTrainer, studies) -> None:
    """Calibrates the scores on validation studies, chooses the positive thresholds and stores both in the config."""
    prediction = trainer.predict(studies, metric_key_prefix="validation")
    logits = torch.from_numpy(prediction.predictions).double()  # [N, m, states]
    log_odds = positive_log_odds(logits)  # [N, m]
    actual = prediction.label_ids == POSITIVE
    scaling = platt_scaling(log_odds.numpy(), actual)
    slope, intercept = torch.tensor(scaling, dtype=torch.float64).T  # [m], [m]
    probabilities = (slope * log_odds + intercept).sigmoid().float().numpy()
    config = trainer.model.config
    config.score_calibration = compose(config.score_calibration, scaling)
    config.positive_thresholds = best_thresholds(probabilities, actual)
    errors = [expected_calibration_error(p, actual) for p in (log_odds.sigmoid().numpy(), probabilities)]
    PartialState().print(f"Expected calibration error of the scores: {errors[0]:.3f}, calibrated {errors[1]:.3f}.")


def prepare_model(args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig, train):
    """The model and processor of a run, with what the run says of its data, wording and stage."""
    if not model_args.model_name_or_path:
        labels = np.array(train["disease_labels"])  # [N, m]
        args.otdrg_config = {"state_priors": state_priors(labels, num_states=4), **args.otdrg_config}
    if args.dataset in PHANTOM_NAMES:
        args.otdrg_config = {"notice": PHANTOM_NOTICE, **args.otdrg_config}
    try:
        model, processor = load_model_and_processor(args, model_args, train[args.target])
    except OSError as error:
        sources = [name for name in (model_args.model_name_or_path, args.vision_model, args.text_model) if name]
        raise OSError(f"Cannot load {' or '.join(sources)}: {error}") from error
    apply_text_options(args, training_args, model, processor)
    model.config.training_data = training_data(args, model_args, train)
    model.config.trained_on_reports |= args.stage != "align"
    return model, processor


def set_up(args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig) -> OTDRGTrainer:
    """Loads studies and model. `ValueError` or `OSError`, in one line, for what a user has to change."""
    set_seed(training_args.seed)
    # Image tokens are part of the prompt: cutting it to TRL's default length would cut them off.
    training_args.max_length = None
    check_packages(training_args, model_args)
    checkpoint = _start(args, training_args)
    if checkpoint:
        check_same_run(training_args.output_dir, checkpoint, args.stage, model_args.use_peft)
    num_proc = training_args.dataset_num_proc
    train = load_studies(args, "train", args.train_studies, num_proc)
    validation = load_studies(args, "validation", args.eval_studies, num_proc)
    check_batches(training_args, len(train), len(validation))

    model, processor = prepare_model(args, training_args, model_args, train)
    text_only = args.stage == "warmup"
    for studies in (train, validation):
        check_context(studies, processor, args.target, text_only)
    size = processor.image_processor.size
    image_size = (size["height"], size["width"])
    options = (args.stage, processor.label_prompt, image_size, args.freeze_vision, args.train_vision_blocks)
    frozen = apply_stage(model, *options)
    peft_config = adapter_config(model, model_args, args.stage, args.lora_vision, image_size)
    cast_backbones(model, args.frozen_dtype, adapted=peft_config is not None)
    if peft_config is not None:
        model = put_on_base(model, processor, training_args.output_dir, model_args)
        frozen = apply_stage(model, *options)
    if not args.vision_config:
        frozen += batch_norms(model)
    features = None
    if args.feature_cache:
        features = FeatureCache(args.feature_cache, encoder_checksum(model, processor))
        fill_cache(features, model.to(training_args.device), processor, (train, validation))
    if features is not None or text_only:
        train, validation = undecoded(train), undecoded(validation)
    collator, train_collator = collators(args, processor, train, features, training_args.seed)
    num_reports = args.generate_eval_studies
    return OTDRGTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_collator=train_collator,
        learning_rates={"vision_tower": args.vision_learning_rate, "language_model": args.text_learning_rate},
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        compute_metrics=None if text_only else disease_metrics(model.config),
        peft_config=peft_config,
        stage=args.stage,
        frozen_modules=frozen,
        report_metrics=ReportMetrics(processor, args.target, num_reports) if num_reports else None,
    )


def fill_cache(features: FeatureCache, model, processor, datasets) -> None:
    """Encodes the studies that an earlier run has not, after saying how large their features are."""
    with PartialState().main_process_first():
        for studies in datasets:
            indices = features.missing(studies)
            num_views = sum(len(studies[index]["views"]) for index in indices)
            if indices and PartialState().is_main_process:
                size = cache_size(model, num_views) / 1e9
                print(f"Features of {num_views} images: {size:.2f} GB in {features.folder}.")
            features.fill(model, processor, studies, indices)


def collators(args: StudyArguments, processor, train, features: FeatureCache | None, seed: int):
    """What makes batches of evaluation, and of training, where the labels that the LLM is shown are drawn."""
    text_only = args.stage == "warmup"
    common = {
        "target": args.target,
        "features": features,
        "others": None if text_only else OtherStates(np.array(train["disease_labels"])),
        "text_only": text_only,
    }
    of_training = {
        "shown": shown_labels(args, train, seed),
        "finding_weight": args.finding_weight,
        "augmentation": Augmentation(seed) if args.augment else None,
    }
    return StudyCollator(processor, **common), StudyCollator(processor, **common, **of_training)


def shown_labels(args: StudyArguments, studies, seed: int) -> ShownLabels | None:
    """What draws the labels that the LLM is shown in training; `None` for those of the studies, or where it rests."""
    if args.stage == "align" or not any(getattr(args, name) for name in LABEL_RATES):
        return None
    changed = ChangedReports(studies[args.target]) if args.changed_report_rate else None
    return ShownLabels(args.predicted_label_rate, args.changed_report_rate, args.told_label_rate, changed, seed)


def _start(args: StudyArguments, training_args: SFTConfig) -> str | None:
    """The checkpoint that a run goes on from."""
    last = last_complete_checkpoint(training_args.output_dir) if args.resume else None
    return training_args.resume_from_checkpoint or last


def run(trainer: OTDRGTrainer, args: StudyArguments) -> None:
    """Trains and saves the model, its processor and the log in `output_dir`."""
    output_dir = trainer.args.output_dir
    checkpoint = _start(args, trainer.args)
    if checkpoint:
        PartialState().print(f"Going on from {checkpoint}.")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(output_dir)
    if trainer.is_world_process_zero():
        # A pickle that holds this machine's paths, which the model's folder, made to be shared, can do without.
        Path(output_dir, "training_args.bin").unlink(missing_ok=True)
        _write_json(Path(output_dir, "training_log.json"), trainer.state.log_history)


def calibrate_saved(trainer: OTDRGTrainer) -> None:
    """Calibrates the model in `output_dir`: its configuration alone changes, so that a failure loses no weights."""
    calibrate(trainer, trainer.eval_dataset)
    if not trainer.is_world_process_zero():
        return
    # An adapter's folder holds no configuration; it is that of the base.
    folder = Path(trainer.args.output_dir, "base" if is_peft_model(trainer.model) else "")
    path = folder / "config.json"
    chosen = {name: getattr(trainer.model.config, name) for name in ("positive_thresholds", "score_calibration")}
    _write_json(path, {**json.loads(path.read_text()), **chosen})


def _write_json(path: Path, content) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)


def main(arguments: list[str] | None = None) -> None:
    """The command line; mistakes of a user are one line on stderr and exit code 2."""
    try:
        # Unknown fields raise, with their names.
        args, training_args, model_args = RecipeParser().parse_args_and_config(arguments)
        check_options(args, training_args, model_args)
        if args.dry_run:
            PartialState().print(dry_run(args, training_args, model_args))
            return
        trainer = set_up(args, training_args, model_args)
    except (ValueError, OSError, ImportError, YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    run(trainer, args)
    if trainer.is_world_process_zero():
        write_record(trainer, args, model_args)
    if args.stage != "warmup":
        calibrate_saved(trainer)


if __name__ == "__main__":
    main()
    # Left to the end of the interpreter, the threads of gloo abort it now and then.
    PartialState().destroy_process_group()
