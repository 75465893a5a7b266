"""The JSON Schema of what `otdrg report` writes, one object per image."""

from otdrg_hf.labeling import LABELS, STATES

_TEXT = {"type": "string"}
_STATE = {"enum": list(STATES)}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def _object(properties: dict, optional: tuple[str, ...] = ()) -> dict:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_PLAUSIBLE = {
    "description": "The states among which the true one is at the model's error rate; empty where none fits.",
    "type": "array",
    "items": _STATE,
    "uniqueItems": True,
}
_POINT = {"type": ["string", "object"]}
_UNREACHED = _object({"asked": _POINT, "reached": {"type": ["number", "null"]}})
_ANSWER = _object(
    {
        "image": {**_TEXT, "description": "Name of the image: of its file, or its path inside the folder given."},
        "model": {**_TEXT, "description": "Hub id or name of the folder; demo for the bundled checkpoint."},
        "generated_text": {**_TEXT, "description": "The report."},
        "findings": {
            "description": "The states that the report was written from, and the probability of positive.",
            "type": "array",
            "items": _object(
                {"label": _TEXT, "state": _STATE, "score": _SHARE, "plausible": _PLAUSIBLE}, ("plausible",)
            ),
            "minItems": 1,
        },
        "sections": {
            **_object({"findings": _TEXT, "impression": _TEXT}),
            "description": "Of a report that has both headers.",
        },
        "operating_point": {
            **_object({"asked": _POINT, "unreached": {"type": "object", "additionalProperties": _UNREACHED}}),
            "description": "Where one was asked for; unreached: the labels that could not reach it on validation.",
        },
        "candidates": {
            "description": "All reports, the first of them generated_text, where several were asked for.",
            "type": "array",
            "items": _TEXT,
            "minItems": 2,
        },
        "disagreements": {
            "description": "Labels present in the prediction and absent in the text, or the other way round.",
            "type": "array",
            "items": _object({"label": {"enum": list(LABELS)}, "predicted": _STATE, "written": _STATE}),
        },
        "candidate_agreement": {
            "description": "For each candidate the share of labels on which text and prediction agree.",
            "type": "array",
            "items": _SHARE,
        },
    },
    optional=("sections", "operating_point", "candidates", "candidate_agreement"),
)
_FAILURE = _object({"image": _TEXT, "error": {**_TEXT, "description": "One line, in --json output only."}})

REPORT_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A line of `otdrg report`",
    "oneOf": [_ANSWER, _FAILURE],
}
