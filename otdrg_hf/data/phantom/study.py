"""From a seed to a study: which findings, how they look, what is written about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from otdrg_hf.data.phantom.anatomy import Patient, Radiograph, frontal_radiograph, sample_patient
from otdrg_hf.data.phantom.canvas import axis, stream
from otdrg_hf.data.phantom.finding import Finding
from otdrg_hf.data.phantom.lateral import draw_lateral_sign, lateral_radiograph
from otdrg_hf.data.phantom.nuisance import Nuisance, expose, sample_at, sample_nuisance, warp_map
from otdrg_hf.data.phantom.report import WrittenReport, write_report
from otdrg_hf.data.phantom.sampling import sample_findings
from otdrg_hf.data.phantom.signs import FRONTAL_SIGNS, broken_bones, reshape_patient
from otdrg_hf.labeling.labels import LABELS

VIEWS = ("frontal", "lateral")
BOTH_LUNGS = ("Edema", "Lung Opacity", "Pneumonia", "Atelectasis")  # drawn as one layer on both sides
DRAWING_ORDER = tuple(FRONTAL_SIGNS)
OPAQUE = ("Fracture", "Support Devices")  # bone and metal do not fade
Box = list[float]


@dataclass
class PhantomStudy:
    """A synthetic study: drawn radiographs, the report on them and what was drawn.

    Attributes:
        id (`str`): `phantom-{split}-{seed:06d}`.
        images (`list[PIL.Image.Image]`): 8-bit greyscale radiographs, square.
        views (`list[str]`): `"frontal"` or `"lateral"` for each image.
        indication (`str`): may be empty.
        findings (`str`), impression (`str`): the two sections of the report.
        disease_labels (`list[int]`): what the report states, a state for each of `otdrg_hf.labeling.LABELS`.
        boxes (`list[dict[str, list[list[float]]]]`): for each image the boxes of each drawn sign, `[x0, y0, x1, y1]`
            in 0..1 from the top left corner.
        sides (`dict[str, str | None]`): "left", "right" or "bilateral" (the patient's) for each drawn label.
        severities (`dict[str, float]`): 0 barely visible .. 1 gross, for each drawn label.
        severity_words (`dict[str, str]`), places (`dict[str, str]`): as the report puts them.
    """

    id: str
    images: list[Image.Image]
    views: list[str]
    indication: str
    findings: str
    impression: str
    disease_labels: list[int]
    boxes: list[dict[str, list[Box]]] = field(default_factory=list)
    sides: dict[str, str | None] = field(default_factory=dict)
    severities: dict[str, float] = field(default_factory=dict)
    severity_words: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    @property
    def report(self) -> str:
        return f"{self.findings} {self.impression}"


@dataclass(frozen=True)
class StudyPlan:
    """Everything about a study but its pixels, so that tests can draw it with and without a sign."""

    split: str
    seed: int
    patient: Patient
    findings: tuple[Finding, ...]
    views: tuple[str, ...]
    text: WrittenReport


def plan_study(seed: int, split: str, lateral: bool | None = None, findings: list[Finding] | None = None) -> StudyPlan:
    """Decide on a study; `findings` overrides what chance would give."""
    own = stream(split, seed, 0).random() < 0.5
    views = VIEWS if (own if lateral is None else lateral) else VIEWS[:1]
    found = sample_findings(stream(split, seed, 6)) if findings is None else findings
    text = write_report(stream(split, seed, 7), found, views)
    return StudyPlan(split, seed, sample_patient(split, seed), tuple(found), views, text)


def draw_radiograph(plan: StudyPlan, view: int, size: int, strength: float = 1.0) -> Radiograph:
    """The attenuation of a view of the plan and where each sign is; `strength` below 1 lets soft signs fade."""
    findings = list(plan.findings)
    # from the side the two domes overlap: one that is raised changes little, so it is left where it was
    patient = reshape_patient(plan.patient, [f for f in findings if view == 0 or f.kind != "volume loss"])
    if view == 0:
        radiograph = frontal_radiograph(patient, size, broken_bones(findings, patient))
    else:
        radiograph = lateral_radiograph(patient, size)
    for f in sorted(findings, key=lambda f: DRAWING_ORDER.index(f.label)):
        before = radiograph.density.copy()
        sign = FRONTAL_SIGNS[f.label] if view == 0 else draw_lateral_sign
        sign(radiograph, f, f.rng(plan.split, plan.seed, view))
        if strength < 1 and f.label not in OPAQUE:
            radiograph.density = before + np.float32(strength) * (radiograph.density - before)
    return radiograph


def draw_view(plan: StudyPlan, view: int, size: int) -> tuple[Image.Image, dict[str, list[Box]]]:
    """One radiograph of the plan and the boxes of the signs on it."""
    radiograph, nuisance = draw_radiograph(plan, view, size), sample_nuisance(plan.split, plan.seed, view)
    boxes = {label: mark_boxes(radiograph, label, nuisance, halves=view == 0) for label in radiograph.marks}
    return expose_radiograph(plan, view, radiograph, nuisance), boxes


def expose_radiograph(plan: StudyPlan, view: int, radiograph: Radiograph, nuisance: Nuisance) -> Image.Image:
    density = sample_at(radiograph.density, *warp_map(nuisance, radiograph.size))
    return expose(density, nuisance, stream(plan.split, plan.seed, 8, view))


def mark_boxes(radiograph: Radiograph, label: str, nuisance: Nuisance, halves: bool) -> list[Box]:
    """The boxes of a label's marks after the warp; marks of one sign on both lungs get a box each."""
    boxes = []
    for mark in radiograph.marks[label]:
        u, step = axis(mark.shape[0]), 1.0 / mark.shape[0]
        seen = sample_at(mark.astype(np.float32), *warp_map(nuisance, mark.shape[0]))
        drawn = seen > 0.2 * max(float(mark.max()), 1e-6)
        parts = [np.ones_like(u, dtype=bool)]
        if halves and label in BOTH_LUNGS:
            middle = radiograph.patient.middle + nuisance.shift[0]
            parts = [u < middle, u >= middle]
        for half in parts:
            columns, rows = np.flatnonzero((drawn & half).any(0)), np.flatnonzero(drawn[:, half].any(1))
            if len(columns) > 1 and len(rows) > 1:
                x0, x1, y0, y1 = columns[0], columns[-1], rows[0], rows[-1]
                box = [u[x0] - step, u[y0] - step, u[x1] + step, u[y1] + step]
                boxes.append([round(float(min(max(v, 0.0), 1.0)), 4) for v in box])
    return boxes


def make_phantom(seed: int, split: str = "train", image_size: int = 224, lateral: bool | None = None) -> PhantomStudy:
    """Draw and write one synthetic study.

    Args:
        seed (`int`): 0 or more; the same seed gives the same study, on every machine and in every process.
        split (`str`): part of the seed: studies of different splits never coincide.
        image_size (`int`): side of the square radiographs in pixels, 64 to 1024.
        lateral (`bool`, *optional*): whether there is a lateral radiograph; by default half of the studies have one.

    Raises:
        ValueError: for a negative seed, an image size out of range or an empty split name.
    """
    check_phantom(seed, image_size)
    if not split:
        raise ValueError("split is empty: give it a name such as 'train'.")
    plan = plan_study(seed, split, lateral)
    drawn = [draw_view(plan, VIEWS.index(view), image_size) for view in plan.views]
    return PhantomStudy(id=f"phantom-{split}-{seed:06d}", **study_fields(plan, drawn))


def check_phantom(seed: int, image_size: int) -> None:
    """Raises `ValueError` for a negative seed or an image size out of range."""
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: phantoms are numbered from 0.")
    if not 64 <= image_size <= 1024:
        raise ValueError(f"image_size {image_size} is out of range: phantoms are drawn at 64 to 1024 pixels.")


def study_fields(plan: StudyPlan, drawn: list[tuple[Image.Image, dict[str, list[Box]]]]) -> dict[str, Any]:
    """The fields of [`PhantomStudy`] but for its id, of a plan and its radiographs with their boxes."""
    return {
        "images": [image for image, _ in drawn],
        "views": list(plan.views),
        "indication": plan.text.indication,
        "findings": plan.text.findings,
        "impression": plan.text.impression,
        "disease_labels": [plan.text.states[label] for label in LABELS],
        "boxes": [boxes for _, boxes in drawn],
        "sides": {f.label: f.side for f in plan.findings},
        "severities": {f.label: f.severity for f in plan.findings},
        "severity_words": plan.text.severity_words,
        "places": {f.label: f.place for f in plan.findings},
    }
