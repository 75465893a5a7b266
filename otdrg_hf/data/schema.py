"""The one schema of every study dataset: its columns, splits, views and label states, and what a source declares."""

from dataclasses import dataclass
from typing import Any

from otdrg_hf.data.errors import DataError, require_datasets

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


@dataclass(frozen=True)
class Source:
    """
    A source of studies, as cards describe it; each module of a source has its own.

    Attributes:
        title (`str`): Readable name.
        description (`str`): What the studies are, in a sentence or two.
        splits (`tuple[str, ...]`): The splits that it may have.
        license (`str`, *optional*): The Hub's identifier of the licence; `None` where it is not known.
        license_name, license_link (`str`, *optional*): Of a licence that the Hub calls `"other"`.
        url (`str`, *optional*): Where the data comes from.
        citation (`str`, *optional*): Whom to cite for it.
        synthetic (`bool`): Whether it shows no patient.
        credentialed (`bool`): Whether it may only be shared with people who have signed its data use agreement.
        known (`bool`): Whether the package knows the terms; a folder of the user's own may hold anything.
    """

    title: str
    description: str
    splits: tuple[str, ...] = SPLITS
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    url: str | None = None
    citation: str | None = None
    synthetic: bool = False
    credentialed: bool = False
    known: bool = True


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
    """`"train"`, `"validation"` or `"test"` for any of the usual spellings ("val", " Test "), else `None`."""
    return _SPLIT_NAMES.get(str(name).strip().lower())


def require_split(name: str, splits: tuple[str, ...] = SPLITS) -> str:
    """
    Like [`split_name`], but raises [`DataError`] for a name that is not a split.

    Args:
        name (`str`): A split in any of the usual spellings, or one of `splits`.
        splits (`tuple[str, ...]`): Of the source.
    """
    known = name if name in splits else split_name(name)
    if known is None:
        raise DataError(f"Unknown split {name!r}: ask for one of {', '.join(splits)} ('val' is accepted)")
    return known


def compose_report(findings: str, impression: str) -> str:
    """The report of a study: its findings, then its impression, whichever of them there is."""
    return " ".join(part for part in (findings, impression) if part)


def study_id(value: Any, where: str) -> str:
    """
    The id that a file gives a study, as text.

    Raises:
        [`DataError`]: for anything but text and whole numbers: 3.0, which pandas makes of 3 in a column with gaps,
            would not be found under the name "3".
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


def frontal_first(study: dict[str, Any]) -> dict[str, Any]:
    """The study with its frontal images, and their views, in front; otherwise their order stays."""
    order = sorted(range(len(study["images"])), key=lambda position: study["views"][position] != "frontal")
    return {**study, **{name: [study[name][position] for position in order] for name in ("images", "views")}}
