"""A report as FHIR R4B: a preliminary DiagnosticReport that contains an Observation per label, and no patient."""

import datetime
import html

from otdrg_hf.extras import require
from otdrg_hf.hospital import RESEARCH_USE, notice_of
from otdrg_hf.hospital.codes import FHIR_SYSTEMS, OWN_SCHEME, STATE_CODES, Coded, label_code
from otdrg_hf.hospital.structured_report import Algorithm

_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_SECTION = "http://terminology.hl7.org/CodeSystem/v2-0074"
_ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"


def diagnostic_report(answer: dict, algorithm: Algorithm) -> dict:
    """
    The DiagnosticReport of an answer, validated by fhir.resources.

    Nothing of the image's header is in it: who receives it sets `subject` and `imagingStudy`.

    Args:
        answer (`dict`): What the pipeline answered.
        algorithm ([`Algorithm`]): What wrote it.

    Returns:
        `dict`: as JSON.
    """
    require("fhir.resources", extra="hospital")
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    observations = [_observation(number, finding) for number, finding in enumerate(answer["findings"], start=1)]
    report = {
        "resourceType": "DiagnosticReport",
        "contained": [_device(algorithm), *observations],
        "text": {"status": "generated", "div": _narrative(answer["generated_text"])},
        "status": "preliminary",
        "category": [_concept(_SECTION, "RAD", "Radiology")],
        "code": _concept("http://snomed.info/sct", "399208008", "Plain chest X-ray"),
        "issued": now,
        "performer": [{"display": RESEARCH_USE}],
        "result": [{"reference": f"#{observation['id']}"} for observation in observations],
        "conclusion": f"{_plain(answer['generated_text'])} [{notice_of(answer)}]",
    }
    return DiagnosticReport.model_validate(report).model_dump(mode="json", exclude_none=True)


def _observation(number: int, finding: dict) -> dict:
    observation = {
        "resourceType": "Observation",
        "id": f"finding-{number}",
        "status": "preliminary",
        "category": [_concept(_CATEGORY, "imaging", "Imaging")],
        "code": _label_concept(label_code(finding["label"]), finding["label"]),
        "device": {"reference": "#algorithm"},
        "note": [{"text": RESEARCH_USE}],
        "component": [
            {
                "code": {"text": "Probability of positive"},
                "valueQuantity": {
                    "value": finding["score"],
                    "unit": "1",
                    "system": "http://unitsofmeasure.org",
                    "code": "1",
                },
            }
        ],
    }
    if finding["state"] in STATE_CODES:
        state = STATE_CODES[finding["state"]]
        value = _concept(FHIR_SYSTEMS[state.scheme], state.value, state.meaning)
        return {**observation, "valueCodeableConcept": {**value, "text": finding["state"]}}
    reason = _concept(_ABSENT, "unknown", "Unknown")
    return {**observation, "dataAbsentReason": {**reason, "text": finding["state"]}}


def _device(algorithm: Algorithm) -> dict:
    return {
        "resourceType": "Device",
        "id": "algorithm",
        "deviceName": [{"name": _plain(algorithm.name), "type": "model-name"}],
        "version": [{"value": _plain(algorithm.version)}],
        "note": [{"text": RESEARCH_USE}],
    }


def _label_concept(code: Coded, label: str) -> dict:
    """A concept of a public system; of our own scheme there is the text only."""
    if code.scheme == OWN_SCHEME:
        return {"text": label}
    return {**_concept(FHIR_SYSTEMS[code.scheme], code.value, code.meaning), "text": label}


def _concept(system: str, code: str, display: str) -> dict:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _plain(text: str) -> str:
    """A text without control characters, in one line; FHIR has no empty text."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable()) or "(no text)"


def _narrative(text: str) -> str:
    paragraphs = "".join(f"<p>{html.escape(_plain(part))}</p>" for part in (RESEARCH_USE, text))
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'
