"""Which checkpoint a run resumes from, and whether it is one of this run."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from trl import GRPOConfig, ModelConfig, SFTConfig

from otdrg_hf.files import write_json
from otdrg_hf.hub.provenance import read_stages
from otdrg_hf.training.arguments import MODEL_FIELDS, RATES, StudyArguments

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
RUN_FILE = "run.json"  # beside the checkpoints
# What a run is made of. All else may change when it resumes, such as the number of steps or of devices.
RUN = (
    *("stage", "model_name_or_path", *MODEL_FIELDS, "otdrg_config", "dataset", "load_kwargs", "train_studies"),
    *("target", "labels_from", "label_prompt", *RATES, "finding_weight", "augment", "freeze_vision"),
    *("train_vision_blocks", "vision_learning_rate", "text_learning_rate", "learning_rate", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "optim", "weight_decay", "max_grad_norm", "seed", "data_seed"),
    *("train_sampling_strategy", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("lora_target_parameters", "lora_modules_to_save", "lora_vision", "use_dora", "use_rslora"),
    *("rewards", "recall_emphasis", "rare_label_power", "num_generations", "temperature", "beta", "loss_type"),
    *("epsilon", "num_iterations", "max_completion_length"),
)
# Of mappings in it: how data are read, and what set-up itself puts in.
LEFT_OUT = {"load_kwargs": ("cache_dir", "num_proc", "in_place"), "otdrg_config": ("state_priors", "notice")}


def starting_checkpoint(training_args: SFTConfig, resume: bool = True) -> str | None:
    """The checkpoint that a run resumes from, if any: the one it names, or the last complete one of `output_dir`."""
    last = last_complete_checkpoint(training_args.output_dir) if resume else None
    return training_args.resume_from_checkpoint or last


def last_complete_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint that was written to its end: the trainer writes its state last."""
    complete = [path for path in _checkpoints(output_dir) if is_complete(path)]
    newest = max(complete, key=lambda path: int(CHECKPOINT.fullmatch(path.name)[1]), default=None)
    return str(newest) if newest else None


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a folder holds a checkpoint that was written to its end."""
    try:
        json.loads(Path(checkpoint, "trainer_state.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return True


def check_same_run(
    checkpoint: str, args: StudyArguments, training_args: SFTConfig | GRPOConfig, model_args: ModelConfig
) -> None:
    """
    Makes sure that a checkpoint, as far as it shows, is of this run: nothing else fits its optimizer and its schedule.

    Raises:
        ValueError: naming what is different.
    """
    output_dir = training_args.output_dir
    done = read_stages(output_dir)[-1]["stage"]
    adapter = Path(checkpoint, "adapter_config.json").is_file()
    of_run = Path(checkpoint).with_name(RUN_FILE)
    made_of = json.loads(of_run.read_text(encoding="utf-8")) if of_run.is_file() else {}
    asked = _digests(args, training_args, model_args)
    different = [name for name, digest in made_of.items() if asked.get(name, digest) != digest]
    if done not in (args.stage, "unknown"):
        other = f"of the stage {done!r}"
    elif adapter != model_args.use_peft:
        other = f"{'with' if adapter else 'without'} use_peft"
    elif different:
        other = f"with another {different[0]}"
    else:
        return
    raise ValueError(f"{output_dir} holds a run {other}: choose another output_dir, or restart with --resume false.")


def begin_run(args: StudyArguments, training_args: SFTConfig | GRPOConfig, model_args: ModelConfig) -> str | None:
    """
    The checkpoint that a run resumes from, if any. Notes what the run is made of; with `--resume false`, removes
    checkpoints of the run before, to which an interruption or a collapse would lead back.
    """
    checkpoint, state = starting_checkpoint(training_args, args.resume), PartialState()
    output_dir = Path(training_args.output_dir)
    if checkpoint:
        state.print(f"Resuming from {checkpoint}.")
    if state.is_main_process:
        old = [] if checkpoint or args.resume else _checkpoints(output_dir)
        for folder in old:
            shutil.rmtree(folder)
        if old:
            print(f"Removed {len(old)} checkpoints of the run before from {output_dir}.")
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / RUN_FILE, _digests(args, training_args, model_args))
    state.wait_for_everyone()
    return checkpoint


def _checkpoints(output_dir: str | Path) -> list[Path]:
    return [path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]


def _digests(args: StudyArguments, training_args: SFTConfig | GRPOConfig, model_args: ModelConfig) -> dict[str, str]:
    """Of each field of `RUN`, to be compared only; of paths the last part alone, as folders may have moved."""
    fields = {**vars(model_args), **vars(training_args), **vars(args)}
    batch = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps
    run = {name: fields[name] for name in RUN if name in fields} | {"batch size": batch * training_args.world_size}
    for name, left_out in LEFT_OUT.items():
        run[name] = {key: _last_part(value) for key, value in run[name].items() if key not in left_out}
    run = {name: _last_part(value) for name, value in run.items()}
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in run.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:10] for name, text in texts.items()}


def _last_part(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) else value
