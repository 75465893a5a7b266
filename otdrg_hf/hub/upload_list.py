"""Which files of a model folder go to the Hub: those that loading it needs, its card and its training record."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .card_file import CARD_FILE, is_draft
from .model_card import read_config
from .provenance import RECORD_FILE

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
REQUIRED = ("config.json", "processor_config.json", "tokenizer_config.json", CARD_FILE)
# What processors and tokenizers of the backbones are saved as.
OPTIONAL = (
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    RECORD_FILE,
)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
LOCAL_PATH = re.compile(r"(?:/[^/\s]+){2,}/?|~/.*|file://.*|[A-Za-z]:[\\/].*|\\\\.*")


@dataclass(frozen=True)
class UploadFile:
    """A file that goes: its name in the repository, where it is here, and its bytes."""

    name: str
    path: Path
    size: int


def upload_list(model_dir: Path) -> list[UploadFile]:
    """
    The files that go, by name. What is on no list stays: checkpoints, logs, data, anything else in the folder.

    Raises:
        ValueError: for a folder that is no whole OTDRG model with its code and card, holds pickles, or names a path of
            this machine in a file that would go.
    """
    _refuse_other_folders(model_dir)
    pickles = sorted(path.name for path in model_dir.iterdir() if path.suffix.lower() in PICKLES and path.is_file())
    if pickles:
        raise ValueError(
            f"{model_dir.name} holds pickles, which can run code where they are loaded: {', '.join(pickles)}. Push the "
            "folder that the training wrote at its end (a checkpoint-* folder is for going on), or delete them."
        )
    config = read_config(model_dir)
    missing = [name for name in REQUIRED if not (model_dir / name).is_file()]
    if missing:
        raise ValueError(f"{model_dir.name} lacks {', '.join(missing)}: {_remedy(missing)}")
    if is_draft((model_dir / CARD_FILE).read_text(encoding="utf-8")):
        raise ValueError(f"{CARD_FILE} is a draft of the trainer: run `otdrg card` on the folder first.")
    names = {*REQUIRED, *_weights(model_dir), *_code(model_dir, config)}
    names |= {name for name in OPTIONAL if (model_dir / name).is_file()}
    files = [UploadFile(name, model_dir / name, (model_dir / name).stat().st_size) for name in sorted(names)]
    for file in files:
        _refuse_local_paths(file, model_dir)
    return files


def _refuse_other_folders(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder.name}: give the folder of a model.")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder.name} is a LoRA adapter, which names its base by a path of this machine: make a whole model of "
            "it first, by python -m otdrg_hf.hub.merge_adapter ADAPTER_DIR MODEL_DIR."
        )


def _remedy(missing: list[str]) -> str:
    if missing == [CARD_FILE]:
        return "run `otdrg card` on the folder first."
    return 'save it whole, by pipeline("radiology-report", model=...).save_pretrained(folder).'


def _weights(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    try:
        shards = set(json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        raise ValueError(f"{folder.name} has no weights in safetensors: save the model by save_pretrained.") from None
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{WEIGHTS_INDEX} cannot be read: save the model again.") from None
    absent = sorted(name for name in shards if Path(name).name != name or not (folder / name).is_file())
    if absent:
        raise ValueError(f"{folder.name} lacks the weights {', '.join(absent)}: save the model again.")
    return [WEIGHTS_INDEX, *shards]


def _code(folder: Path, config: dict) -> set[str]:
    """The modules that config.json names, with all that they import from the folder."""
    from transformers.dynamic_module_utils import get_relative_import_files

    pipelines = config.get("custom_pipelines") or {}
    references = [*(config.get("auto_map") or {}).values(), *(entry.get("impl", "") for entry in pipelines.values())]
    if "radiology-report" not in pipelines or "AutoProcessor" not in (config.get("auto_map") or {}):
        raise ValueError(
            f"{folder.name} does not carry its code, which people without otdrg_hf need: save it by "
            'pipeline("radiology-report", model=...).save_pretrained(folder).'
        )
    names = {f"{reference.split('.')[0]}.py" for reference in references}
    absent = sorted(name for name in names if not (folder / name).is_file())
    try:
        for name in names - set(absent):
            names = names | {Path(path).name for path in get_relative_import_files(folder / name)}
    except FileNotFoundError as error:
        absent = [Path(error.filename).name]
    if absent:
        raise ValueError(f"{folder.name} lacks code that it needs, {', '.join(absent)}: save the model again.")
    return names


def _refuse_local_paths(file: UploadFile, folder: Path) -> None:
    if file.path.suffix == ".md":
        text = file.path.read_text(encoding="utf-8")
        if str(folder.absolute()) in text or str(Path.home()) + "/" in text:
            raise ValueError(f"{file.name} names a folder of this machine: write it without.")
    # Not tokenizer.json and the like: any string may be a word there.
    if file.name.endswith(("config.json", RECORD_FILE)):
        try:
            content = json.loads(file.path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{file.name} is not valid JSON: save the model again.") from None
        for key, text in _strings(content):
            if LOCAL_PATH.fullmatch(text):
                raise ValueError(f"{file.name} names a path of this machine under {key!r}: change it there first.")


def _strings(content, key: str = ""):
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)
    elif isinstance(content, str):
        yield key, content
