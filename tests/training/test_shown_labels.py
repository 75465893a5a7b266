"""What the LLM is shown of the labels in training: drawn by study and epoch, at the rates that are asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_training import tiny_model, tiny_rows

from otdrg_hf.labeling import label_reports
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.changed_reports import ChangedReports
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.shown_labels import PREDICTED, ShownLabels

STUDIES = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(50) for row in tiny_rows(6)]
CHANGED = ChangedReports([row["report"] for row in tiny_rows(6)])


def draw(*rates: float, epoch: float = 0, seed: int = 0):
    shown = ShownLabels(*rates, CHANGED, seed)
    shown.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    return [shown.draw(study, "report") for study in STUDIES]


def test_a_study_shows_its_own_labels_and_report_unless_drawn_otherwise():
    for study, shown in zip(STUDIES, draw(0, 0, 0), strict=True):
        assert shown.report == study["report"] and (shown.labels == study["disease_labels"]).all()
        assert not shown.told.any()


def test_predicted_labels_are_shown_at_their_rate():
    drawn = draw(0.4, 0, 1)
    predicted = [(each.labels == PREDICTED).all() for each in drawn]
    assert abs(np.mean(predicted) - 0.4) < 0.1
    assert [each.told.any() for each in drawn] == [not each for each in predicted]


def test_changed_reports_come_with_their_own_labels_told_against_the_image():
    changed = [
        (study, shown)
        for study, shown in zip(STUDIES, draw(0.2, 0.5, 0), strict=True)
        if shown.report != study["report"]
    ]
    assert 0.35 < len(changed) / len(STUDIES) < 0.55
    states = np.asarray(label_reports([shown.report for _, shown in changed]))
    for (study, shown), own in zip(changed, states, strict=True):
        assert (shown.labels == own).all()
        assert (shown.told == (own != study["disease_labels"])).all()


def test_own_labels_are_told_at_their_rate():
    assert abs(np.mean([shown.told for shown in draw(0, 0, 0.3)]) - 0.3) < 0.03


def test_draws_follow_from_study_epoch_and_seed_alone():
    def texts(**options):
        return [(shown.report, *shown.labels, *shown.told) for shown in draw(0.3, 0.3, 0.3, **options)]

    assert texts() == texts() and texts(epoch=2.0) == texts(epoch=2.7)
    assert texts() != texts(epoch=1.0) and texts() != texts(seed=1)


def test_training_batches_hold_what_is_shown_and_others_do_not():
    _, processor = tiny_model()
    rows = tiny_rows(4)
    plain = StudyCollator(processor)(rows)
    shown = StudyCollator(processor, shown=ShownLabels(0.0, 1.0, 0.0, CHANGED))(rows)
    assert "shown_labels" not in plain and "told_labels" not in plain
    assert shown["shown_labels"].shape == shown["told_labels"].shape == (4, 14)
    # The losses of the head go on reading the labels of the image.
    assert (shown["disease_labels"] == plain["disease_labels"]).all()
    assert (shown["shown_labels"] != shown["disease_labels"]).any()


@pytest.mark.parametrize(
    "rates, message",
    [
        ({"predicted_label_rate": 1.5}, "predicted_label_rate is 1.5"),
        ({"told_label_rate": -0.1}, "told_label_rate is -0.1"),
        ({"predicted_label_rate": 0.6, "changed_report_rate": 0.6}, "at most 1"),
    ],
)
def test_rates_that_are_none_are_named(rates, message):
    with pytest.raises(ValueError, match=message):
        StudyArguments(**rates)
