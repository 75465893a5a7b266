"""The probes of a model: pointing game, Grad-CAM, steering and spread, each on a case whose answer is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import tiny_rows, write_study_folder

from otdrg_hf.training.probes.localization import chance, grad_cam, is_hit, peak
from otdrg_hf.training.probes.probing import probe_model
from otdrg_hf.training.probes.results import plot_results
from otdrg_hf.training.probes.spread import effective_rank, mean_cosine
from otdrg_hf.training.probes.steering import Steered

LOWER_LEFT = [0.0, 0.5, 0.5, 1.0]


def test_a_peak_is_the_centre_of_its_patch_in_its_view():
    maps = np.zeros((2, 4, 5))
    maps[1, 2, 3] = 1
    assert peak(maps) == pytest.approx((1, 0.7, 0.625))
    assert peak(maps, offset=(-0.5, 0.25)) == pytest.approx((1, 0.75, 0.5))


def test_a_hit_is_in_a_box_of_the_same_view():
    maps = np.zeros((2, 4, 4))
    maps[1, 3, 0] = 1
    assert is_hit(maps, [[], [LOWER_LEFT]])
    assert not is_hit(maps, [[LOWER_LEFT], []])
    assert not is_hit(maps, [[], [[0.5, 0.5, 1.0, 1.0]]])
    assert is_hit(maps, [[], [[0.5, 0.5, 1.0, 1.0], LOWER_LEFT]])
    assert not is_hit(maps, [[], [[0.0, 0.8, 0.5, 1.0]]], offset=(-0.5, 0))


def test_chance_is_the_share_of_peaks_that_would_hit():
    boxes = [[LOWER_LEFT, [0.0, 0.6, 0.5, 1.0]], []]
    hits = 0
    for view in range(2):
        for patch in range(16):
            maps = np.zeros((2, 16))
            maps[view, patch] = 1
            hits += is_hit(maps.reshape(2, 4, 4), boxes)
    assert chance((4, 4), boxes) == hits / 32 == 1 / 8
    assert chance((4, 4), boxes, offset=(-0.5, 0.5)) == 1 / 8
    assert chance((4, 4), boxes, offset=(-0.6, 0)) == 1 / 16


def test_grad_cam_is_where_the_log_odds_would_rise(model, inputs):
    study = {name: inputs[name][1:2] for name in ("pixel_values", "view_mask")}
    cams = grad_cam(model, **study, labels=[0, 5])
    assert cams.keys() == {0, 5}
    for cam in cams.values():
        assert cam.shape == (2, 4, 4)
        assert cam.min() >= 0 and cam.isfinite().all()
    assert not torch.equal(cams[0], cams[5])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("state", "after", "obeyed"),
    [
        ("positive", "There is a small left pleural effusion.", True),
        ("positive", "Possible small pleural effusion.", False),
        ("positive", "The lungs are clear.", False),
        ("negative", "No pleural effusion.", True),
        ("negative", "The lungs are clear.", True),
        ("negative", "There is a small left pleural effusion.", False),
    ],
)
def test_a_report_obeys_when_it_says_what_was_set(state, after, obeyed):
    assert Steered("Pleural Effusion", state, "The heart is normal.", after).obeyed() is obeyed


def test_only_words_of_other_sentences_count_as_changed():
    before = "The heart is normal in size. No pleural effusion. The bones are intact."
    same = "The heart is normal in size. Large left pleural effusion. The bones are intact."
    other = "The heart is mildly enlarged. Large left pleural effusion. The bones are intact."
    assert Steered("Pleural Effusion", "positive", before, same).words_changed() == 0
    assert Steered("Pleural Effusion", "positive", before, other).words_changed() == 3


def test_effective_rank_counts_directions():
    directions = torch.linalg.qr(torch.randn(8, 8))[0]
    spread = torch.cat([directions[:4], -directions[:4]])  # four directions alike, centred
    assert effective_rank(spread) == pytest.approx(4, rel=1e-4)
    assert effective_rank(torch.outer(torch.arange(5.0), torch.ones(8))) == pytest.approx(1, abs=1e-4)


def test_mean_cosine_leaves_the_diagonal_out():
    assert mean_cosine(torch.eye(3)) == pytest.approx(0)
    assert mean_cosine(torch.ones(3, 4) * torch.tensor([[1.0], [2.0], [5.0]])) == pytest.approx(1)


def test_figures_of_a_model_on_phantoms(folder, tmp_path):
    figures = probe_model(folder, "phantom", "test", 4)
    assert 0 <= figures.calibration_error <= 1
    assert figures.steering["count"] == 4
    assert figures.spread["after"]["effective_rank"] > 1
    assert "Grad-CAM" in figures.text()
    plot_results(figures, tmp_path / "probe.png")
    assert [path.name for path in tmp_path.iterdir()] == ["probe.png"]
    with Image.open(tmp_path / "probe.png") as picture:
        assert len(picture.convert("L").getcolors()) > 10


def test_studies_without_boxes_are_probed_for_all_but_their_evidence(folder, tmp_path):
    data = write_study_folder(tmp_path, test=6)
    figures = probe_model(folder, str(data), "test", 5, candidates=2)
    assert figures.pointing == {} and "Grad-CAM" not in figures.text()
    assert figures.steering["count"] == 5 and 0 <= figures.true_labels["stated"] <= 1
    # One report of the five has an effusion, and one a possible pneumonia, which is not positive.
    assert figures.true_labels["count"] == sum("right pleural effusion" in row["report"] for row in tiny_rows(5))
    plot_results(figures, tmp_path / "probe.png")
