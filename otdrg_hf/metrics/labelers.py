"""The labeler of a command line: the rules, or CheXbert from its weights, under a name and version for the record."""

import hashlib
import os
from pathlib import Path

from .clinical import Labeler

LABELERS = ("rules", "chexbert")
_CHUNK = 2**20


def load_labeler(name: str, weights: str | os.PathLike | None = None, **options) -> str | Labeler:
    """
    What `evaluate_files` takes as its labeler.

    Args:
        name (`str`): `"rules"` or `"chexbert"`.
        weights (`str` or `os.PathLike`, *optional*): chexbert.pth or its safetensors, for `"chexbert"` alone.
        options: Of [`CheXbertLabeler`]: `tokenizer`, `device` and `batch_size`.

    Raises:
        ValueError: for another name, or weights that are missing, not readable or not asked for.
        FileNotFoundError: if there is no such file.
    """
    if name not in LABELERS:
        raise ValueError(f"unknown labeler {name!r}; give one of {', '.join(LABELERS)}")
    if name == "rules":
        if weights is not None:
            raise ValueError("weights are for the labeler chexbert; leave them out for rules")
        return name
    if weights is None:
        raise ValueError("the labeler chexbert needs its weights: --weights PATH of chexbert.pth or its safetensors")
    if not Path(weights).is_file():  # said before the tokenizer is looked for on the Hub
        raise FileNotFoundError(f"no CheXbert weights at {Path(weights).name}: give the path of chexbert.pth")
    from ..labeling.chexbert import CheXbertLabeler

    label = CheXbertLabeler(weights, **options)
    label.__name__ = name
    digest = hashlib.sha256()
    with Path(weights).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    label.version = f"chexbert weights sha256 {digest.hexdigest()[:16]}"
    return label
