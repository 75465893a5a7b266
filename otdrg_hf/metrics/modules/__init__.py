"""The metrics as modules of `evaluate`, and their paths, so that `evaluate.load` finds them without a network."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def metric_path(name: str) -> str:
    """
    Path of a metric for `evaluate.load` and `evaluate.combine`.

    Args:
        name (`str`): `"bleu"`, `"rouge_l"`, `"cider"`, `"meteor"` or `"clinical_efficacy"`.

    Raises:
        ValueError: for any other name.
    """
    names = sorted(path.stem for path in _FOLDER.glob("[a-z]*.py"))
    if name not in names:
        raise ValueError(f"unknown metric {name!r}; give one of {', '.join(names)}")
    return str(_FOLDER / f"{name}.py")
