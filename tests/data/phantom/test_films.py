"""The drawing of phantoms: determinism, sizes, and that each sign is where its box and its side say."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from otdrg_hf.data.phantom import make_phantom
from otdrg_hf.data.phantom.canvas import stream
from otdrg_hf.data.phantom.finding import Finding
from otdrg_hf.data.phantom.sampling import DISEASES, sample_devices, sample_finding
from otdrg_hf.data.phantom.study import draw_view, plan_study

SIZE = 128


def digest(seed: int, split: str) -> str:
    study = make_phantom(seed, split, 96)
    content = b"".join(np.asarray(image).tobytes() for image in study.images) + study.report.encode()
    return hashlib.sha256(content).hexdigest()


def one_finding(label: str, number: int) -> list[Finding]:
    rng = stream("signs", number, 99)
    return sample_devices(rng, [], [])[:1] if label == "Support Devices" else [sample_finding(rng, label, set())]


@cache
def without_signs(number: int, view: int) -> np.ndarray:
    plan = plan_study(number, "signs", lateral=True, findings=[])
    return np.asarray(draw_view(plan, view, SIZE)[0], dtype=float)


def change(number: int, findings: list[Finding], view: int) -> tuple[np.ndarray, dict]:
    """What the findings change on a film beyond grain [S, S], and the boxes."""
    plan = plan_study(number, "signs", lateral=True, findings=findings)
    with_sign, boxes = draw_view(plan, view, SIZE)
    difference = np.abs(np.asarray(with_sign, dtype=float) - without_signs(number, view))
    return np.where(difference < 10, 0, difference), boxes


def test_another_process_draws_the_same():
    # by path, so that the child needs nothing but what this process imports from
    code = "import sys; sys.path[:0] = sys.argv[1:]\nfrom test_films import digest\n"
    code += "print(digest(11, 'train'), digest(12, 'test'))"
    places = [str(Path(__file__).parent), *sys.path]
    result = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [digest(11, "train"), digest(12, "test")]


def test_splits_and_seeds_differ():
    digests = {digest(seed, split) for seed in range(6) for split in ("train", "validation", "test", "test2")}
    assert len(digests) == 24


@pytest.mark.parametrize("size", [64, 100, 224, 512])
def test_image_sizes(size):
    study = make_phantom(3, "sizes", size, lateral=True)
    assert [image.size for image in study.images] == [(size, size)] * 2
    assert {image.mode for image in study.images} == {"L"}
    assert all(20 < np.asarray(image).mean() < 230 for image in study.images)


def test_a_study_is_the_same_chest_at_every_size():
    small, large = (make_phantom(8, "sizes", size, lateral=False) for size in (96, 384))
    assert small.report == large.report
    reduced = np.asarray(large.images[0].resize((96, 96), 4), dtype=float)
    assert np.corrcoef(reduced.ravel(), np.asarray(small.images[0], dtype=float).ravel())[0, 1] > 0.97


def test_half_of_the_studies_have_a_lateral_film():
    with_lateral = sum(len(plan_study(seed, "train").views) == 2 for seed in range(400))
    assert 160 < with_lateral < 240
    assert make_phantom(1, image_size=64, lateral=True).views == ["frontal", "lateral"]
    assert make_phantom(1, image_size=64, lateral=False).views == ["frontal"]


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": 1, "image_size": 32}, {"seed": 1, "split": ""}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="seed|image_size|split"):
        make_phantom(**arguments)


@pytest.mark.parametrize("label", [*DISEASES, "Support Devices"])
def test_boxes_hold_what_the_sign_changes(label):
    for number in range(8):
        findings = one_finding(label, number)
        for view in (0, 1):
            difference, boxes = change(number, findings, view)
            inside = np.zeros((SIZE, SIZE), dtype=bool)
            for x0, y0, x1, y1 in boxes.get(label, []):
                assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
                inside[int(y0 * SIZE) : int(np.ceil(y1 * SIZE)), int(x0 * SIZE) : int(np.ceil(x1 * SIZE))] = True
            if view == 0:
                assert difference.sum() > 0, f"{label} {number} cannot be seen"
                assert boxes[label]
            assert set(boxes) <= {label}
            if difference.sum() > 255:
                assert difference[inside].sum() > 0.7 * difference.sum(), (label, number, view)
                assert inside.mean() < 0.6


@pytest.mark.parametrize(
    "label", [label for label in DISEASES if label not in ("Cardiomegaly", "Enlarged Cardiomediastinum", "Edema")]
)
def test_signs_are_on_the_side_that_is_reported(label):
    for number in range(8):
        finding = one_finding(label, number)[0]
        for side in ("left", "right"):
            kind = "nodule" if finding.kind == "nodules" else finding.kind
            difference, boxes = change(number, [replace(finding, side=side, kind=kind)], 0)
            image_half = difference[:, SIZE // 2 :] if side == "left" else difference[:, : SIZE // 2]
            assert image_half.sum() > 0.75 * difference.sum(), (label, number, side)
            centre = np.mean([(box[0] + box[2]) / 2 for box in boxes[label]])
            assert (centre > 0.5) == (side == "left")


def test_the_heart_grows_with_the_severity_of_cardiomegaly():
    for number in range(4):
        widths = []
        for severity in (0.1, 0.4, 0.7, 1.0):
            finding = Finding("Cardiomegaly", severity)
            plan = plan_study(number, "heart", lateral=False, findings=[finding])
            box = draw_view(plan, 0, SIZE)[1]["Cardiomegaly"][0]
            widths.append((box[2] - box[0]) / (2 * plan.patient.half_width))
        assert widths == sorted(widths)
        assert widths[-1] - widths[0] > 0.07
        assert plan.patient.ratio < 0.5


def test_obvious_signs_change_more_than_subtle_ones():
    for label in DISEASES:
        faint, gross = 0.0, 0.0
        for number in range(3):
            finding = one_finding(label, number)[0]
            faint += change(number, [replace(finding, severity=0.1)], 0)[0].sum()
            gross += change(number, [replace(finding, severity=0.95)], 0)[0].sum()
        assert gross > 1.2 * faint, label
