"""Where a model comes from: the record of its training, stage by stage, and what is known of the data behind it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD_FILE = "training_record.json"
FORMAT = 1
# The field of config.json with the names of all sources that a model has learned from.
CONFIG_KEY = "training_data"
# A model that went through training without a record, or was not trained by this package.
UNRECORDED = {"stage": "unknown", "dataset": "unknown"}
PHYSIONET_LICENSE = "https://physionet.org/content/mimic-cxr/view-license/2.1.0/"


@dataclass(frozen=True)
class Source:
    """
    A source of studies, as cards describe it.

    Attributes:
        title (`str`): Readable name.
        description (`str`): What the studies are, in a sentence or two.
        license (`str`, *optional*): The Hub's identifier of the licence; `None` where it is not known.
        license_name, license_link (`str`, *optional*): Of a licence that the Hub calls `"other"`.
        url (`str`, *optional*): Where the data comes from.
        citation (`str`, *optional*): Whom to cite for it.
        synthetic (`bool`): Whether it shows no patient.
        credentialed (`bool`): Whether it may only be shared with people who have signed for it.
        known (`bool`): Whether the package knows the terms; a folder of the user's own may hold anything.
    """

    title: str
    description: str
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    url: str | None = None
    citation: str | None = None
    synthetic: bool = False
    credentialed: bool = False
    known: bool = True


SOURCES = {
    "phantom": Source(
        title="synthetic chest phantoms",
        description=(
            "Synthetic: chest radiographs drawn by a program from numbered seeds, with reports put together by a "
            "grammar. They show no patient and were read by no radiologist."
        ),
        license="apache-2.0",
        synthetic=True,
    ),
    "phantom_hard": Source(
        title="hard synthetic chest phantoms",
        description=(
            "Synthetic, as the plain phantoms are, with faint signs, shapes that look like signs, and rare labels. "
            "They show no patient and were read by no radiologist."
        ),
        license="apache-2.0",
        synthetic=True,
    ),
    "iu_xray": Source(
        title="IU X-Ray",
        description=(
            "Chest radiographs and reports of the Indiana University Chest X-ray Collection, published by the National "
            "Library of Medicine's Open-i service; de-identified by its publishers."
        ),
        license="cc-by-nc-nd-4.0",
        url="https://openi.nlm.nih.gov/faq#collection",
        citation=(
            "Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, "
            "Journal of the American Medical Informatics Association 23(2), 2016."
        ),
    ),
    "mimic_cxr": Source(
        title="MIMIC-CXR",
        description=(
            "Chest radiographs and reports of the Beth Israel Deaconess Medical Center, de-identified and published on "
            "PhysioNet for credentialed users who have signed its data use agreement."
        ),
        license="other",
        license_name="physionet-credentialed-health-data-license-1.5.0",
        license_link=PHYSIONET_LICENSE,
        url="https://physionet.org/content/mimic-cxr/",
        citation=(
            "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with "
            "free-text reports, Scientific Data 6:317, 2019."
        ),
        credentialed=True,
    ),
    "folder": Source(
        title="a collection of the publisher's own",
        description="Studies from a folder of the publisher's own; the package does not know where they come from.",
        known=False,
    ),
    "unknown": Source(
        title="data that was not recorded",
        description="Nothing was recorded about the data of this stage.",
        known=False,
    ),
}


def read_stages(model: str | os.PathLike) -> list[dict[str, Any]]:
    """
    The stages of a model's training, the first one first.

    Args:
        model (`str` or `os.PathLike`): A model folder or a Hub id.

    Returns:
        `list[dict]`: As `training_record.json` has them, after one of stage `"unknown"` for each source that only
        config.json names: a model that was saved anew leaves the record behind, but not its configuration. Where
        neither says anything, a single [`UNRECORDED`] one.

    Raises:
        ValueError: for a record that is damaged.
    """
    record = _read_json(model, RECORD_FILE)
    try:
        stages = [] if record is None else record["stages"]
        recorded = {stage["dataset"] for stage in stages}
        if record is not None and not (record["format"] == FORMAT and recorded and recorded <= set(SOURCES)):
            raise ValueError(f"format {record['format']} with data {recorded}")
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{RECORD_FILE} is damaged or of another version of otdrg-hf: restore it, or train the model again."
        ) from None
    config = _read_json(model, "config.json")
    named = config.get(CONFIG_KEY) if isinstance(config, dict) else None
    named = [name if name in SOURCES else "unknown" for name in named or []]
    others = [{"stage": "unknown", "dataset": name} for name in dict.fromkeys(named) if name not in recorded]
    return others + stages or [UNRECORDED]


def read_file(model: str | os.PathLike, name: str) -> str | None:
    """The text of a file of a model, in a folder or on the Hub; `None` where it has none."""
    from transformers.utils import cached_file

    if os.path.isdir(model):
        path = os.path.join(model, name)
        path = path if os.path.isfile(path) else None
    else:
        quiet = dict.fromkeys(("missing_entries", "connection_errors", "gated_repo"), False)
        path = cached_file(str(model), name, **{f"_raise_exceptions_for_{what}": no for what, no in quiet.items()})
    return None if path is None else Path(path).read_text(encoding="utf-8")


def _read_json(model: str | os.PathLike, name: str) -> Any:
    """A file of a model; `None` where it has none, and `ValueError` where it cannot be read."""
    try:
        text = read_file(model, name)
        return None if text is None else json.loads(text)
    except ValueError:
        raise ValueError(f"{name} is damaged: it is no JSON. Restore it, or train the model again.") from None


def sources_of(stages: list[dict[str, Any]]) -> list[Source]:
    """Where the studies of all stages come from, each source once."""
    return [SOURCES[name] for name in dict.fromkeys(stage["dataset"] for stage in stages)]


def is_credentialed(stages: list[dict[str, Any]]) -> bool:
    """Whether a stage has seen studies that only credentialed people may have."""
    return any(source.credentialed for source in sources_of(stages))
