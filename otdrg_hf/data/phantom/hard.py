"""Hard phantoms: faint signs among look-alikes, rare labels, and co-occurrence of labels that a test split breaks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from otdrg_hf.data.phantom.anatomy import Patient, Radiograph, sample_patient
from otdrg_hf.data.phantom.canvas import stream
from otdrg_hf.data.phantom.hard_sampling import LOOK_ALIKES, sample_hard_findings, sample_traits
from otdrg_hf.data.phantom.look_alikes import FRONTAL_LOOK_ALIKES, monitor_leads
from otdrg_hf.data.phantom.nuisance import Nuisance, sample_nuisance
from otdrg_hf.data.phantom.report import write_report
from otdrg_hf.data.phantom.study import (
    BOTH_LUNGS,
    VIEWS,
    Box,
    PhantomStudy,
    StudyPlan,
    check_phantom,
    draw_radiograph,
    expose_radiograph,
    mark_boxes,
    study_fields,
)

HARD_SPLITS = ("train", "validation", "test", "test_broken")


@dataclass
class HardPhantomStudy(PhantomStudy):
    """
    A [`PhantomStudy`] with id `phantom-hard-{split}-{seed:06d}` and what was drawn to mislead.

    Attributes:
        look_alikes (`list[str]`): of `hard_sampling.LOOK_ALIKES`; the report says nothing of them.
    """

    look_alikes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HardPlan(StudyPlan):
    """Everything about a hard study but its pixels."""

    look_alikes: tuple[str, ...] = ()


def plan_hard_study(seed: int, split: str) -> HardPlan:
    """Decide on a study. Chance is named after the data set, so that no other phantom is ever the same."""
    name, broken = f"phantom_hard/{split}", split == "test_broken"
    rng = stream(name, seed, 20)
    traits = sample_traits(rng, broken)
    findings = sample_hard_findings(rng, traits, broken)
    views = VIEWS if stream(name, seed, 0).random() < 0.5 else VIEWS[:1]
    text = write_report(stream(name, seed, 7), findings, views)
    look_alikes = tuple(name for name in LOOK_ALIKES if name in traits)
    patient = sample_patient(name, seed)
    if "shallow breath" in look_alikes:
        patient = breathe_out(patient)
    return HardPlan(name, seed, patient, tuple(findings), views, text, look_alikes)


def breathe_out(p: Patient) -> Patient:
    """High domes, and a heart and mediastinum that are broader for it but within normal limits."""
    rng = stream(p.split, p.seed, 21)
    lift = rng.uniform(0.035, 0.065)
    wide = {"ratio": p.ratio + rng.uniform(0.02, 0.035), "mediastinum": p.mediastinum * rng.uniform(1.05, 1.18)}
    return replace(p, dome_right=p.dome_right - lift, dome_left=p.dome_left - lift, **wide)


def hard_nuisance(plan: HardPlan, view: int) -> Nuisance:
    """Pose and exposure as of any phantom, a flatter curve, more grain, and sometimes a tilt."""
    nuisance, rng = sample_nuisance(plan.split, plan.seed, view), stream(plan.split, plan.seed, 22, view)
    angle = nuisance.angle
    if "tilted film" in plan.look_alikes:
        angle = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.105, 0.26))
    return replace(
        nuisance,
        angle=angle,
        contrast=nuisance.contrast * rng.uniform(0.82, 1.0),
        grain=nuisance.grain * rng.uniform(1.0, 1.5),
    )


def draw_hard_view(plan: HardPlan, view: int, size: int) -> tuple[Image.Image, dict[str, list[Box]]]:
    """One radiograph of the plan and the boxes of the signs on it; look-alikes have none."""
    strength = float(stream(plan.split, plan.seed, 23).uniform(0.55, 0.9))
    radiograph = draw_radiograph(plan, view, size, strength)
    for number, name in enumerate(LOOK_ALIKES):
        rng = stream(plan.split, plan.seed, 30 + number, view)
        if name not in plan.look_alikes:
            continue
        if view == 0 and name in FRONTAL_LOOK_ALIKES:
            FRONTAL_LOOK_ALIKES[name](radiograph, rng)
        elif name == "monitor leads":
            monitor_leads(radiograph, rng, lateral=True)
    nuisance = hard_nuisance(plan, view)
    if view == 0:
        split_sides(radiograph)
    boxes = {label: mark_boxes(radiograph, label, nuisance, halves=False) for label in radiograph.marks}
    return expose_radiograph(plan, view, radiograph, nuisance), boxes


def split_sides(radiograph: Radiograph) -> None:
    """Marks of one sign on both lungs as one for each side, before the radiograph is tilted."""
    for label in set(BOTH_LUNGS) & set(radiograph.marks):
        parts = []
        for mark in radiograph.marks[label]:
            left_of = (np.arange(mark.shape[1]) + 0.5) / mark.shape[1] < radiograph.patient.middle
            halves = [mark * left_of, mark * ~left_of]
            parts += [half for half in halves if half.max() > 0.3 * mark.max()]
        radiograph.marks[label] = parts


def make_hard_phantom(seed: int, split: str = "train", image_size: int = 224) -> HardPhantomStudy:
    """Draw and write one hard synthetic study; see docs/phantom_hard.md for what is hard about it.

    Args:
        seed (`int`): 0 or more; the same seed gives the same study, on every machine and in every process.
        split (`str`): "train", "validation" or "test", or "test_broken", where labels and look-alikes that go together
            in the others avoid each other.
        image_size (`int`): side of the square radiographs in pixels, 64 to 1024.

    Raises:
        ValueError: for a negative seed, an image size out of range or an unknown split.
    """
    check_phantom(seed, image_size)
    if split not in HARD_SPLITS:
        raise ValueError(f"split {split!r} is unknown: hard phantoms have {', '.join(HARD_SPLITS)}.")
    plan = plan_hard_study(seed, split)
    drawn = [draw_hard_view(plan, VIEWS.index(view), image_size) for view in plan.views]
    return HardPhantomStudy(
        id=f"phantom-hard-{split}-{seed:06d}", look_alikes=list(plan.look_alikes), **study_fields(plan, drawn)
    )
