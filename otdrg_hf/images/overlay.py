"""A study's images with the evidence of each label overlaid."""

import os

import numpy as np
from PIL import Image

from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path


def save_overlay(
    path: str | os.PathLike,
    images: list[Image.Image],
    answer: dict,
    boxes: list[dict[str, list[float]]] | None = None,
    note: str = "",
) -> None:
    """
    Writes one PNG: a row per view, first the image, then the image under the heat map of each label with evidence.

    Args:
        path (`str` or `os.PathLike`): Where to write it, whole or not at all.
        images (`list[PIL.Image.Image]`): The views.
        answer (`dict`): What the pipeline returned for them with `evidence=True`.
        boxes (`list[dict]`, *optional*): Per view the true box `[x0, y0, x1, y1]`, from 0 to 1, of each label.
        note (`str`, *optional*): A line below the images.
    """
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = {finding["label"]: finding for finding in answer["findings"]}
    labels = list(answer["evidence"])
    columns, rows = 1 + len(labels), len(images)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, image in enumerate(images):
        pixels = np.asarray(image.convert("L"))
        for column, axis in enumerate(axes[row]):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axis.set_axis_off()
            if column == 0:
                axis.set_title("image", fontsize=9)
                continue
            label = labels[column - 1]
            heat = answer["evidence"][label][row]
            axis.imshow(heat, cmap="inferno", alpha=0.6 * heat, vmin=0, vmax=1)
            axis.set_title(f"{label}\n{scores[label]['state']}, score {scores[label]['score']:.2f}", fontsize=9)
            for box in _boxes_of(boxes, row, label):
                _draw_box(axis, box, pixels.shape)
    if note:
        figure.supxlabel(note, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, bbox_inches="tight")


def _boxes_of(boxes, view: int, label: str) -> list[list[float]]:
    found = (boxes[view] if boxes else {}).get(label, [])
    return [found] if found and not isinstance(found[0], (list, tuple)) else list(found)


def _draw_box(axis, box: list[float], shape: tuple[int, int]):
    from matplotlib.patches import Rectangle

    height, width = shape
    x0, y0, x1, y1 = box
    corner = (x0 * width, y0 * height)
    size = ((x1 - x0) * width, (y1 - y0) * height)
    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="deepskyblue", linewidth=1))
