"""The JSON Schema of what `otdrg report` writes, one object per image."""

from otdrg_hf.labeling import LABELS, STATES

_TEXT = {"type": "string"}
_STATE = {"enum": list(STATES)}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}

_SPAN = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}


def _or_null(kind: dict) -> dict:
    return {"oneOf": [kind, {"enum": [None]}]}


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
_SENTENCE = _object(
    {
        "text": _TEXT,
        "span": {**_SPAN, "description": "Its first character in generated_text, and the one after its last."},
        "section": {**_or_null(_TEXT), "description": "The header above it, in lower case."},
        "labels": {
            "description": "What it states of the labels; none for a sentence about none of them.",
            "type": "array",
            "items": _object(
                {
                    "label": {"enum": list(LABELS)},
                    "state": {"enum": list(STATES[1:])},
                    "span": {**_SPAN, "description": "Of the words that say so, in generated_text."},
                    "score": {**_or_null(_SHARE), "description": "The predicted probability of positive."},
                    "agrees": {"enum": [True, False, None], "description": "Whether the predicted state does."},
                    "given": {"enum": [True, False], "description": "Whether a person said so, not the model."},
                }
            ),
        },
        "likelihood": {**_or_null(_SHARE), "description": "Geometric mean of its tokens' probabilities."},
        "least_likelihood": {**_or_null(_SHARE), "description": "The least of its tokens' probabilities."},
        "confidence": {**_or_null(_SHARE), "description": "The probability that what it states is right."},
    }
)
_INPUT = {
    "familiar": {"enum": [True, False]},
    "distance": {
        "type": "number",
        "minimum": 0,
        "maximum": 1e6,
        "description": "From the training images; familiar up to 1.",
    },
    "view": {"enum": ["frontal", "lateral", "unknown"], "description": "That the image looks like."},
    "why": {**_TEXT, "description": "In words."},
}
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
        "sentences": {
            "description": "Of a model whose confidence in sentences is calibrated.",
            "type": "array",
            "items": _SENTENCE,
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
        "input": {
            **_object(_INPUT),
            "description": "Whether the image is like those that the model was trained on; of a model that knows.",
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
    optional=("sections", "sentences", "operating_point", "candidates", "input", "candidate_agreement"),
)
_FAILURE = _object({"image": _TEXT, "error": {**_TEXT, "description": "One line, in --json output only."}})
_REFUSAL = _object({"image": _TEXT, "refused": {**_TEXT, "description": "One line, with --refuse_unfamiliar --json."}})

REPORT_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A line of `otdrg report`",
    "oneOf": [_ANSWER, _FAILURE, _REFUSAL],
}
