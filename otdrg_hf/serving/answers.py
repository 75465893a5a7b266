"""What the server answers: a line of `otdrg report --json`, with heat maps where they were asked for."""

import base64
import copy
import io
from typing import Any

import numpy as np
from PIL import Image

from otdrg_hf.reporting import REPORT_SCHEMA, review_answer

# Longer sides of heat maps, in pixels. They are interpolated from the model's patches, of which there are fewer.
PNG_SIDE, ARRAY_SIDE = 1024, 64

_MAPS = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
_EVIDENCE = {
    **_MAPS,
    "description": (
        "With `evidence`: for each label that is positive or uncertain a heat map per view, of where it was seen. "
        f"As `png`: data URLs of grey images, up to {PNG_SIDE} pixels a side. "
        f"As `arrays`: rows of numbers from 0 to 1, up to {ARRAY_SIDE} a side."
    ),
}


def answer_schema() -> dict:
    """The JSON Schema of an answer of `/v1/reports`."""
    schema = copy.deepcopy(REPORT_SCHEMA["oneOf"][0])
    schema["properties"].setdefault("evidence", _EVIDENCE)
    return schema


def reduced(sizes: list[tuple[int, int]], form: str) -> list[tuple[int, int]]:
    """The sizes, (height, width), at which heat maps of images of these sizes are made."""
    longest = PNG_SIDE if form == "png" else ARRAY_SIDE
    scales = [min(1.0, longest / max(size)) for size in sizes]
    return [
        (max(1, round(height * scale)), max(1, round(width * scale)))
        for (height, width), scale in zip(sizes, scales, strict=True)
    ]


def answer_row(answer: dict, image: str, model: str, evidence: str | None = None) -> dict[str, Any]:
    """
    A line of `otdrg report --json`.

    Args:
        answer (`dict`): The pipeline's.
        image (`str`), model (`str`): Their names.
        evidence (`str`, *optional*): The form of the heat maps, `"png"` or `"arrays"`.
    """
    row = {"image": image, "model": model, **review_answer(answer)}
    maps = row.pop("evidence", None)
    if evidence is not None and maps is not None:
        encode = _png if evidence == "png" else _numbers
        row["evidence"] = {label: [encode(view) for view in views] for label, views in maps.items()}
    return row


def _png(view: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.round(view * 255).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _numbers(view: np.ndarray) -> list[list[float]]:
    return [[round(number, 3) for number in row] for row in view.astype(float).tolist()]
