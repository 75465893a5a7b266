"""The study on the page: images that were uploaded or drawn, in memory, with nothing of them left on disk."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from otdrg_hf.data.phantom import make_phantom
from otdrg_hf.images import load_radiograph
from otdrg_hf.modeling.image_loading import view_names

MAX_IMAGES = 8
EXAMPLE_SEEDS = (1_000_001, 1_000_002, 1_000_003)
EXAMPLE_SIZE = 448
BALANCED = "balanced"


@dataclass
class PageStudy:
    """Images and what the user said about them.

    Attributes:
        images (`list[PIL.Image.Image]`): The views.
        views (`list[str]`): `"frontal"`, `"lateral"` or `"unknown"` of each.
        indication (`str`), comparison (`str`): Why the images were taken; the earlier report.
        given (`dict[str, str]`): States by label that the user knows.
        operating_point (`str`): `"balanced"`, which is how a report is written without a point, or another one.
        begins_with (`str`): What the user wrote, which the report continues.
        written (`str`): The report on the page, before the user edits it.
        phantom_report (`str`, *optional*): The true report of a synthetic phantom; `None` for uploads.
        stop (`threading.Event`): Set to end the writing of the report early.
    """

    images: list[Image.Image]
    views: list[str]
    indication: str = ""
    comparison: str = ""
    given: dict[str, str] = field(default_factory=dict)
    operating_point: str = BALANCED
    begins_with: str = ""
    written: str = ""
    phantom_report: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def inputs(self) -> dict:
        """The study as the pipeline takes it."""
        return {
            "images": self.images,
            "views": self.views,
            "indication": self.indication,
            "comparison": self.comparison,
            "disease_labels": self.given,
            "begins_with": self.begins_with,
        }


def study_of_uploads(paths: Sequence[str]) -> PageStudy:
    """
    Loads the uploaded files, all views of one study, and deletes them whether they can be read or not.

    Raises:
        ValueError: for a file that is not a radiograph, naming it, and for more than 8 of them.
    """
    try:
        if len(paths) > MAX_IMAGES:
            raise ValueError(f"{len(paths)} files: at most {MAX_IMAGES} images of one study can be read together.")
        images = [load_radiograph(path) for path in paths]
    finally:
        for path in paths:
            Path(path).unlink(missing_ok=True)
    return PageStudy(images, view_names(images))


def study_of_phantom(seed: int) -> PageStudy:
    """A synthetic study, drawn on the fly from its seed."""
    phantom = make_phantom(seed, "test", image_size=EXAMPLE_SIZE)
    return PageStudy(phantom.images, phantom.views, phantom.indication, phantom_report=phantom.report)
