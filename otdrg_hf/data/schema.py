"""The one schema of every study dataset: its columns, splits, views and label states."""

from typing import Any

from otdrg_hf.images.dicom import view_of as view_of

from .errors import DataError, require_datasets

STUDY_COLUMNS = (
    "id",
    "images",
    "views",
    "indication",
    "comparison",
    "findings",
    "impression",
    "report",
    "disease_labels",
)
INPUT_COLUMNS = ("images", "views", "indication", "comparison")  # what a report is written from
PHANTOM_NAMES = ("phantom", "phantom_hard")
HARD_PHANTOM, BROKEN_SPLIT = "phantom_hard", "test_broken"
TEXT_COLUMNS = ("id", "indication", "comparison", "findings", "impression", "report")
VIEWS = ("frontal", "lateral", "unknown")
SPLITS = ("train", "validation", "test")
NUM_LABELS = 14

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def study_features(decode: bool = True):
    """
    The [`datasets.Features`] of a study: `id` string, `images` list of images, `views` list of "frontal", "lateral" or
    "unknown" (one per image), the texts `indication`, `comparison` (the text of the patient's study before, or ""),
    `findings`, `impression` and `report`, and `disease_labels`, 14 int8 in the CheXbert order (0 blank, 1 positive,
    2 negative, 3 uncertain).

    Args:
        decode (`bool`, *optional*, defaults to `True`):
            Whether reading a row opens its images as PIL images; `False` gives their paths and bytes.
    """
    datasets = require_datasets()
    features = {name: datasets.Value("string") for name in STUDY_COLUMNS}
    features["images"] = datasets.List(datasets.Image(decode=decode))
    features["views"] = datasets.List(datasets.Value("string"))
    features["disease_labels"] = datasets.List(datasets.Value("int8"), length=NUM_LABELS)
    return datasets.Features(features)


def split_name(name: str) -> str | None:
    """`train`, `validation` or `test` for any of the usual spellings ("val", " Test "), else `None`."""
    return _SPLIT_NAMES.get(str(name).strip().lower())


def require_split(name: str) -> str:
    """Like [`split_name`], but raises [`DataError`] for a name that is no split."""
    known = split_name(name)
    if known is None:
        raise DataError(f"Unknown split {name!r}: ask for one of {', '.join(SPLITS)} ('val' is accepted)")
    return known


def require_split_of(dataset: str, name: str) -> str:
    """Like [`require_split`], with the split that the hard phantoms alone have."""
    return name if (dataset, name) == (HARD_PHANTOM, BROKEN_SPLIT) else require_split(name)


def compose_report(findings: str, impression: str) -> str:
    """The report of a study: its findings, then its impression, whichever of them there is."""
    return " ".join(part for part in (findings, impression) if part)


def study_id(value: Any, where: str) -> str:
    """
    The id that a file gives a study, as text. Raises [`DataError`] for anything but text and whole numbers: 3.0, which
    pandas makes of 3 in a column with gaps, would not be found under the name "3".
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise DataError(f"{where}: the id must be text or a whole number, not {value!r}")
    return str(value)


def make_study(**columns: Any) -> dict[str, Any]:
    """
    A row of the schema from the columns that are known; the others become empty, and `disease_labels` `None` (no
    labels yet). A missing `report` is composed from findings and impression. Columns outside the schema are kept.
    """
    study: dict[str, Any] = {name: "" for name in TEXT_COLUMNS} | {"images": [], "views": [], "disease_labels": None}
    study.update({name: value for name, value in columns.items() if value is not None})
    if not study["report"]:
        study["report"] = compose_report(study["findings"], study["impression"])
    if not study["views"]:
        study["views"] = ["unknown"] * len(study["images"])
    return study
