"""The codes of labels and states, of codes.yaml: SNOMED CT or RadLex where one fits, else a scheme of our own."""

import functools
import hashlib
from importlib import resources
from typing import NamedTuple

import yaml

OWN_SCHEME = "99OTDRG"
FHIR_SYSTEMS = {"SCT": "http://snomed.info/sct", "RADLEX": "http://radlex.org"}


class Coded(NamedTuple):
    """A concept of a coding scheme, named as in DICOM."""

    value: str
    scheme: str
    meaning: str
    site: str | None = None


SITES = {"lung": Coded("39607008", "SCT", "Lung structure")}
PROCEDURE = Coded("399208008", "SCT", "Plain chest X-ray")
NOTHING_PRESENT = Coded("NONE-PRESENT", OWN_SCHEME, "No label is positive or uncertain")
STATE_CODES = {
    "positive": Coded("52101004", "SCT", "Present"),
    "negative": Coded("2667000", "SCT", "Absent"),
    "uncertain": Coded("82334004", "SCT", "Indeterminate"),
}


def label_code(label: str) -> Coded:
    """The code of a label; a model's own label, which the table does not have, gets one of our scheme by its name."""
    row = _table().get(label)
    if row is not None:
        return Coded(**row)
    return Coded("L-" + hashlib.sha256(label.encode()).hexdigest()[:12].upper(), OWN_SCHEME, label[:64])


@functools.cache
def _table() -> dict[str, dict]:
    text = resources.files("otdrg_hf.hospital").joinpath("codes.yaml").read_text("utf-8")
    return yaml.safe_load(text)
