"""All sources of studies by name, and which one a dataset comes from: cards, push and the training record ask here."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from otdrg_hf.data import image_folder, iu_xray, mimic_cxr, phantom
from otdrg_hf.data.prepared import read_summary
from otdrg_hf.data.schema import Source

if TYPE_CHECKING:
    from datasets import Dataset

DOWNLOADS = ("iu_xray", "mimic_cxr")  # collections that are loaded by name, from a folder that was prepared
SOURCES = {
    "phantom": phantom.SOURCE,
    "phantom_hard": phantom.HARD_SOURCE,
    "iu_xray": iu_xray.SOURCE,
    "mimic_cxr": mimic_cxr.SOURCE,
    "folder": image_folder.SOURCE,
    "unknown": Source(
        title="data that was not recorded",
        description="Nothing was recorded about the data of this stage.",
        known=False,
    ),
}
_CHECKED_PATHS = 100


def source_of(name_or_dir: str | os.PathLike, studies: "Dataset") -> str:
    """
    The source that studies come from, as named in `SOURCES`.

    MIMIC-CXR is recognised by its identifiers in ids and image paths as well, in an R2Gen folder or anywhere else: its
    terms must not be mistaken for those of another source.

    Args:
        name_or_dir (`str` or `os.PathLike`): What [`load_study_dataset`] loaded the studies from.
        studies (`datasets.Dataset`): The studies.
    """
    name = os.fspath(name_or_dir)
    if name in SOURCES and SOURCES[name].synthetic:
        return name
    if any(mimic_cxr.IDENTIFIER.search(text) for text in _identifiers(studies)):
        return "mimic_cxr"
    if name in SOURCES:
        return name
    source = read_summary(name).get("source", "folder")
    return source if source in SOURCES else "folder"


def _identifiers(studies: "Dataset") -> Iterator[str]:
    yield from studies["id"]
    # The paths of a few studies: of embedded images, reading the paths reads the images.
    few = studies.select_columns("images").select(range(min(_CHECKED_PATHS, len(studies)))).with_format("arrow")
    for images in few[:]["images"].to_pylist():
        yield from (image["path"].replace("\\", "/") for image in images if image["path"])
