"""Checks of the options of a run before anything is loaded: each mistake is a `ValueError` of one line."""

import copy
import importlib.util
import typing
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, Trainer, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import ModelConfig, SFTConfig

from otdrg_hf.modeling.configuration_otdrg import NUM_STATES, OTDRGConfig
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.checkpoints import is_complete
from otdrg_hf.training.disease_metrics import disease_metrics
from otdrg_hf.training.report_metrics import LOGGED

# Options of TRL's and transformers' trainers that this training does not use: the values that say what is done anyway,
# and why others are refused.
ONLY = {
    "assistant_only_loss": ((False,), "the report alone is learned, and there is no conversation"),
    "batch_eval_metrics": ((False,), "disease metrics are computed from all studies at once"),
    "completion_only_loss": ((None, True), "the prompt is never learned"),
    "dataset_kwargs": ((None, {}, {"skip_prepare_dataset": True}), "studies are prepared as they are read"),
    "dataset_text_field": (("text",), "the text to learn is named by target"),
    "debug": (([],), "its hooks fail on masks, which are not numbers"),
    "do_predict": ((False,), "use otdrg evaluate after training"),
    "eval_do_concat_batches": ((True,), "disease metrics are computed from all studies at once"),
    "eval_packing": ((None, False), "a study is a sample of its own"),
    **dict.fromkeys(
        ("hub_model_id", "hub_token", "hub_revision", "hub_private_repo"), ((None,), "use otdrg push after training")
    ),
    "include_for_metrics": (([],), "disease metrics are computed from predictions and labels"),
    "label_names": ((None,), "the labels are those of the model"),
    "label_smoothing_factor": ((0,), "the loss of the report is its cross-entropy"),
    "length_column_name": (("length",), "group_by_length counts views and characters of a study"),
    "liger_kernel_config": ((None,), "Liger has no kernels for OTDRG"),
    "lora_task_type": (("CAUSAL_LM",), "the LLM writes text"),
    "loss_type": (("nll",), "the loss of the report is its cross-entropy"),
    # 1024 is TRL's default.
    "max_length": ((1024, None), "studies are never cut; those beyond the LLM's context are refused"),
    "model_init_kwargs": ((None,), "use dtype, attn_implementation and otdrg_config"),
    "model_revision": (("main",), "fetch that revision (hf download --revision) and give its folder"),
    "packing": ((False,), "a study is a sample of its own"),
    "packing_strategy": (("bfd",), "a study is a sample of its own"),
    "pad_to_multiple_of": ((None,), "batches are padded to their longest study"),
    "pad_token": ((None,), "padding is never seen: the tokenizer's own will do"),
    "padding_free": ((False,), "batches are padded"),
    "push_to_hub": ((False,), "use otdrg push after training, which checks what the data allow"),
    "router_aux_loss_coef": ((None, 0), "there is no load-balancing loss"),
    "shuffle_dataset": ((False,), "each epoch has an order of its own anyway; see train_sampling_strategy"),
    "truncation_mode": (("keep_start",), "studies are never cut"),
    "trust_remote_code": ((False,), "backbones are those that transformers knows"),
    "use_cache": ((False,), "training has no use for it"),
    "use_liger_kernel": ((False,), "Liger has no kernels for OTDRG"),
}
AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
WITH_PEFT = (
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_parameters",
    "lora_modules_to_save",
    "use_rslora",
    "use_dora",
)
# Optimizers that look through the model for what they are for.
MODEL_OPTIMIZERS = ("galore", "apollo", "lomo", "adalomo")


def check_options(args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """
    Refuses options that would be dropped or would stop a run after its start.

    Raises:
        ValueError: in one line that names the option.
    """
    for holder in (args, training_args, model_args):
        check_choices(holder)
    for name, (values, reason) in ONLY.items():
        # An earlier release of TRL may not have it.
        given = getattr(training_args if hasattr(training_args, name) else model_args, name, values[0])
        if given not in values:
            raise ValueError(f"{name} {given!r} is not done here: {reason}.")
    for name in AT_LEAST_ONE:
        if getattr(training_args, name) < 1:
            raise ValueError(f"{name} is {getattr(training_args, name)}: it must be at least 1.")
    if training_args.max_steps < 1 and training_args.num_train_epochs <= 0:
        raise ValueError(f"num_train_epochs is {training_args.num_train_epochs}: give more than 0, or max_steps.")
    if training_args.save_strategy == SaveStrategy.STEPS and training_args.save_steps <= 0:
        raise ValueError(f"save_steps is {training_args.save_steps}: give a number above 0, or save_strategy no.")
    checkpoint = training_args.resume_from_checkpoint
    if checkpoint is not None and not is_complete(checkpoint):
        raise ValueError(
            f"resume_from_checkpoint {checkpoint!r} is not a complete checkpoint: give the folder of one, or leave "
            "it out for the last one in output_dir."
        )
    _check_together(args, training_args, model_args)
    _check_best_metric(args, training_args)
    _check_schedule(training_args)


def check_choices(holder: Any) -> None:
    """A recipe's values are not held to the choices that the command line is held to."""
    hints = typing.get_type_hints(type(holder)) if isinstance(holder, StudyArguments) else {}
    for field in fields(holder):
        choices = field.metadata.get("choices") or ()
        if typing.get_origin(hints.get(field.name)) is typing.Literal:
            choices = typing.get_args(hints[field.name])
        value = getattr(holder, field.name)
        if choices and value is not None and value not in choices:
            raise ValueError(f"{field.name} {value!r} is not one of {', '.join(map(str, choices))}.")


def _check_together(args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Options that need another one to have an effect."""
    defaults = ModelConfig()
    if not model_args.use_peft:
        for name in WITH_PEFT:
            if getattr(model_args, name) != getattr(defaults, name):
                raise ValueError(f"{name} goes with use_peft: leave it out, or add use_peft.")
        if args.frozen_dtype and args.stage == "joint" and not args.freeze_vision:
            raise ValueError("frozen_dtype goes with frozen parts: the stage 'joint' trains all of them.")
    if model_args.lora_modules_to_save and args.frozen_dtype:
        raise ValueError("lora_modules_to_save are trained in full, which needs fp32: leave frozen_dtype out.")
    evaluated = training_args.eval_strategy != IntervalStrategy.NO
    if not evaluated and not training_args.eval_on_start:
        for name in ("do_eval", "generate_eval_studies"):
            if getattr(training_args, name, None) or getattr(args, name, None):
                raise ValueError(f"{name} goes with evaluations: give eval_strategy as well.")
    if training_args.activation_offloading and training_args.device.type == "cpu":
        raise ValueError(
            "activation_offloading takes activations from a GPU to the CPU: leave it out where all is there."
        )
    if args.stage == "align" and training_args.neftune_noise_alpha:
        raise ValueError(
            "neftune_noise_alpha is noise for the LLM, which the stage 'align' does not run: leave it out."
        )


def _check_best_metric(args: StudyArguments, training_args: SFTConfig) -> None:
    best = training_args.metric_for_best_model
    if best is None:
        return
    if training_args.eval_strategy == IntervalStrategy.NO:
        if training_args.load_best_model_at_end or training_args.save_strategy == SaveStrategy.BEST:
            raise ValueError(f"The best model by {best} is found by evaluations: give eval_strategy as well.")
        return
    given = evaluation_metrics(args, training_args.prediction_loss_only)
    if best.removeprefix("eval_") in given:
        return
    if best.removeprefix("eval_") in LOGGED:
        raise ValueError(f"metric_for_best_model {best} needs reports: give generate_eval_studies as well.")
    raise ValueError(
        f"metric_for_best_model {best} is not a metric of the evaluations: choose from {', '.join(given)}."
    )


def evaluation_metrics(args: StudyArguments, loss_only: bool) -> list[str]:
    """Names of the metrics that an evaluation of a run gives, without `eval_`."""
    if args.stage == "warmup":
        return ["loss", "lm_loss"]
    names = ["loss", *(() if args.stage == "align" else ("lm_loss",)), "ot_loss", "disease_loss"]
    if not loss_only:
        config = OTDRGConfig()
        m, states = config.num_disease_labels, NUM_STATES
        one = EvalPrediction(np.zeros((1, m, states), dtype=np.float32), np.zeros((1, m), dtype=np.int64))
        names += disease_metrics(config)(one)
    return names + list(LOGGED if args.generate_eval_studies else ())


def _check_schedule(training_args: SFTConfig) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training_args.learning_rate)
    options = training_args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(training_args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=options)
    except (TypeError, ValueError) as error:
        name = training_args.lr_scheduler_type.value
        raise ValueError(f"lr_scheduler_type {name} with lr_scheduler_kwargs {options}: {error}") from error


def check_packages(training_args: SFTConfig, model_args: ModelConfig) -> None:
    """
    Looks for the packages that the options of a run need.

    Raises:
        ValueError: in one line that names the option and the package.
    """
    if (model_args.load_in_4bit or model_args.load_in_8bit) and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("load_in_4bit and load_in_8bit need bitsandbytes: pip install bitsandbytes.")
    for name in training_args.report_to:
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"report_to {name}: {error}") from error
    _check_optimizer(training_args)


def _check_optimizer(training_args: SFTConfig) -> None:
    name = training_args.optim.value
    of_model = name.startswith(MODEL_OPTIMIZERS)
    if training_args.optim_target_modules and not of_model:
        raise ValueError(f"optim_target_modules goes with optimizers such as galore_adamw, not with {name}.")
    try:
        chosen = Trainer.get_optimizer_cls_and_kwargs(training_args)
    except (ImportError, ValueError, AttributeError) as error:
        if of_model and not isinstance(error, ImportError):
            return  # it needs the model, which is not loaded yet
        options = f" with optim_args {training_args.optim_args!r}" if training_args.optim_args else ""
        raise ValueError(f"optim {name}{options}: {error}") from error
    plain = copy.copy(training_args)
    plain.optim_args = None
    if training_args.optim_args and chosen == Trainer.get_optimizer_cls_and_kwargs(plain):
        raise ValueError(f"optim_args {training_args.optim_args!r} has nothing that {name} takes.")


def check_batches(training_args: SFTConfig, num_train: int, num_validation: int) -> None:
    """`ValueError` where `dataloader_drop_last` would leave no batch of the training or validation studies."""
    if not training_args.dataloader_drop_last:
        return
    sizes = {
        "train": (num_train, training_args.per_device_train_batch_size),
        "eval": (num_validation, training_args.per_device_eval_batch_size),
    }
    for name, (studies, size) in sizes.items():
        together = size * training_args.world_size
        if studies < together:
            raise ValueError(
                f"per_device_{name}_batch_size {size} x {training_args.world_size} devices is more than the {studies} "
                "studies there are, and dataloader_drop_last leaves out what does not fill a batch."
            )
