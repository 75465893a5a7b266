"""Draws how often each disease label is in each state in a prepared dataset."""

import os
from typing import Any

from .errors import DataError

_COLOURS = {"positive": "#c44e52", "uncertain": "#dd8452", "negative": "#4c72b0"}


def plot_label_prevalence(summary: dict[str, Any], path: str | os.PathLike) -> None:
    """
    Write a bar chart, for each label the share of studies in which it is positive, uncertain or negative; what is
    missing to 100 % is blank.

    Args:
        summary (`dict`):
            What [`prepare_dataset`] returned.
        path (`str` or `os.PathLike`):
            The image file to write; its extension sets the format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The plot needs matplotlib: pip install 'otdrg-hf[plot]'") from error
    if not summary.get("studies"):
        raise DataError("There is no study to plot the labels of")
    labels = list(summary["labels"])[::-1]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(labels)
    for state, colour in _COLOURS.items():
        shares = [100 * summary["labels"][label][state] / summary["studies"] for label in labels]
        axes.barh(labels, shares, left=left, color=colour, label=state)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_xlabel(f"% of {summary['studies']:,} studies ({summary['source']})")
    axes.legend(frameon=False)
    stem, extension = os.path.splitext(os.fspath(path))
    temporary = f"{stem}.tmp{extension}"
    # Without the software's version in the file, the same counts give the same bytes.
    figure.savefig(temporary, dpi=150, metadata={"Software": None} if extension == ".png" else None)
    os.replace(temporary, path)
