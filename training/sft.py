"""
Trains OTDRG with TRL's SFTTrainer.

    accelerate launch training/sft.py --config training/recipes/phantom_align.yaml [--any_field value]

Fields are those of `StudyArguments` (training/arguments.py), TRL's `SFTConfig` and TRL's `ModelConfig`. The command
line wins over the file. A run that was cut off goes on from its last complete checkpoint.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed
from trl import ModelConfig, SFTConfig, TrlParser

from otdrg_hf.data import load_study_dataset
from otdrg_hf.labeling import label_reports
from otdrg_hf.modeling.disease_states import POSITIVE
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.checkpoints import last_complete_checkpoint
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.disease_metrics import best_thresholds, disease_metrics, state_priors
from otdrg_hf.training.model_setup import load_model_and_processor
from otdrg_hf.training.stages import adapter_config, apply_stage
from otdrg_hf.training.trainer import OTDRGTrainer

PHANTOM_NOTICE = "Trained on synthetic phantoms only: a demonstration, not for clinical use."


def load_studies(args: StudyArguments, split: str, num_studies: int | None, num_proc: int | None):
    """The studies of a split that have the target text, with labels from where the run wants them."""
    options = dict(args.load_kwargs)
    if args.dataset == "phantom" and num_studies:
        options["num_studies"] = num_studies
    studies = load_study_dataset(args.dataset, split=split, **options)
    if num_studies and num_studies < len(studies):
        studies = studies.select(range(num_studies))
    texts = studies[args.target]
    kept = [index for index, text in enumerate(texts) if text.strip()]
    if len(kept) < len(studies):
        print(f"{split}: {len(studies) - len(kept)} of {len(studies)} studies have no {args.target} and are left out.")
        studies = studies.select(kept)
    if args.labels_from == "labeler":
        labels = label_reports(studies["report"], num_proc=num_proc)
        feature = studies.features["disease_labels"]
        studies = studies.remove_columns("disease_labels").add_column("disease_labels", list(labels), feature=feature)
    return studies


def calibrate(trainer: OTDRGTrainer, studies) -> None:
    """Chooses the positive thresholds on validation studies and stores them in the config."""
    prediction = trainer.predict(studies, metric_key_prefix="validation")
    probabilities = torch.from_numpy(prediction.predictions).softmax(-1)[..., POSITIVE].numpy()  # [N, m]
    trainer.model.config.positive_thresholds = best_thresholds(probabilities, prediction.label_ids == POSITIVE)


def main(args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    set_seed(training_args.seed)
    # Image tokens are part of the prompt: cutting it to TRL's default length would cut them off.
    training_args.max_length = None
    num_proc = training_args.dataset_num_proc
    train = load_studies(args, "train", args.train_studies, num_proc)
    validation = load_studies(args, "validation", args.eval_studies, num_proc)

    if not model_args.model_name_or_path:
        priors = state_priors(np.array(train["disease_labels"]), num_states=4)
        args.otdrg_config = {"state_priors": priors, **args.otdrg_config}
    if args.dataset == "phantom":
        args.otdrg_config = {"notice": PHANTOM_NOTICE, **args.otdrg_config}
    model, processor = load_model_and_processor(args, model_args, train[args.target])
    frozen = apply_stage(model, args.stage)
    peft_config = adapter_config(model, model_args) if model_args.use_peft else None
    if peft_config is not None:
        # An adapter names its base by path, so the base has to be somewhere.
        base_dir = os.path.join(training_args.output_dir, "base")
        model.save_pretrained(base_dir)
        processor.save_pretrained(base_dir)
        model.name_or_path = base_dir

    trainer = OTDRGTrainer(
        model=model,
        args=training_args,
        data_collator=StudyCollator(processor, target=args.target),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        compute_metrics=disease_metrics(model.config),
        peft_config=peft_config,
        stage=args.stage,
        frozen_modules=frozen,
    )
    checkpoint = last_complete_checkpoint(training_args.output_dir) if args.resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    calibrate(trainer, validation)
    if peft_config is not None:
        model.config.save_pretrained(base_dir)
    trainer.save_model(training_args.output_dir)
    if trainer.is_world_process_zero():
        log = Path(training_args.output_dir) / "training_log.json"
        log.write_text(json.dumps(trainer.state.log_history, indent=1))


if __name__ == "__main__":
    # Unknown fields raise, with their names.
    main(*TrlParser((StudyArguments, SFTConfig, ModelConfig)).parse_args_and_config())
