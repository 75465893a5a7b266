"""What the LLM is shown of the labels in training, reports that are changed with them, and weights of their tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import tiny_model, tiny_rows

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.training.arguments import LABEL_RATES, StudyArguments
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.model_setup import apply_text_options
from otdrg_hf.training.shown_labels import (
    PREDICTED,
    ChangedReports,
    ShownLabels,
    finding_weights,
    sentences,
    states_a_finding,
)
from otdrg_hf.training.studies import study_tokens

STUDIES = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(50) for row in tiny_rows(6)]
OF_STUDIES = ChangedReports([row["report"] for row in tiny_rows(6)])


def draw(*rates: float, epoch: float = 0, seed: int = 0):
    shown = ShownLabels(*rates, OF_STUDIES, seed)
    shown.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    return [shown.draw(study, "report") for study in STUDIES]


def test_a_study_shows_its_own_labels_and_report_unless_drawn_otherwise():
    for study, shown in zip(STUDIES, draw(0, 0, 0), strict=True):
        assert shown.report == study["report"] and (shown.labels == study["disease_labels"]).all()
        assert not shown.overridden.any()


def test_predicted_labels_are_shown_at_their_rate():
    drawn = draw(0.4, 0, 1)
    predicted = [(each.labels == PREDICTED).all() for each in drawn]
    assert abs(np.mean(predicted) - 0.4) < 0.1
    assert [each.overridden.any() for each in drawn] == [not each for each in predicted]


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
        assert (shown.overridden == (own != study["disease_labels"])).all()


def test_own_labels_are_told_at_their_rate():
    assert abs(np.mean([shown.overridden for shown in draw(0, 0, 0.3)]) - 0.3) < 0.03


def test_draws_follow_from_study_epoch_and_seed_alone():
    def texts(**options):
        return [(shown.report, *shown.labels, *shown.overridden) for shown in draw(0.3, 0.3, 0.3, **options)]

    assert texts() == texts() and texts(epoch=2.0) == texts(epoch=2.7)
    assert texts() != texts(epoch=1.0) and texts() != texts(seed=1)


def test_training_batches_hold_what_is_shown_and_others_do_not():
    _, processor = tiny_model()
    rows = tiny_rows(4)
    plain = StudyCollator(processor)(rows)
    shown = StudyCollator(processor, shown=ShownLabels(0.0, 1.0, 0.0, OF_STUDIES))(rows)
    assert "shown_labels" not in plain and "overridden_labels" not in plain
    assert shown["shown_labels"].shape == shown["overridden_labels"].shape == (4, 14)
    # The losses of the head go on reading the labels of the image.
    assert (shown["disease_labels"] == plain["disease_labels"]).all()
    assert (shown["shown_labels"] != shown["disease_labels"]).any()


@pytest.mark.parametrize(
    "rates, message",
    [
        ({"predicted_label_rate": 1.5}, "predicted_label_rate is 1.5"),
        ({"overridden_label_rate": -0.1}, "overridden_label_rate is -0.1"),
        ({"predicted_label_rate": 0.6, "changed_report_rate": 0.6}, "at most 1"),
    ],
)
def test_rates_that_are_none_are_named(rates, message):
    with pytest.raises(ValueError, match=message):
        StudyArguments(**rates)


@pytest.mark.parametrize("of_checkpoint", [False, True])
def test_labels_are_not_shown_where_the_prompt_has_none(of_checkpoint):
    for name in LABEL_RATES:
        args = StudyArguments(**{name: 0.5}, label_prompt=None if of_checkpoint else False)
        _, processor = tiny_model()
        processor.label_prompt = not of_checkpoint
        with pytest.raises(ValueError, match=f"{name} is about the labels of the prompt, and label_prompt is false"):
            apply_text_options(args, SimpleNamespace(), None, processor)


REPORTS = [
    "The heart is enlarged. The lungs are clear. No pneumothorax.",
    "The heart is normal in size. There is a small right pleural effusion. No pneumothorax.",
    "The heart is normal in size. The lungs are clear. No pleural effusion.",
    "Patchy atelectasis at the left base. The heart is normal in size. No pleural effusion.",
]
NORMAL = REPORTS[2]
EFFUSION, OPACITY = LABELS.index("Pleural Effusion"), LABELS.index("Lung Opacity")


def labels(report: str) -> np.ndarray:
    return np.asarray(label_reports([report]))[0]


@pytest.fixture(scope="module")
def changed() -> ChangedReports:
    return ChangedReports(REPORTS)


def many(changed: ChangedReports, report: str, count: int = 200) -> list[str]:
    return [changed.change(report, np.random.default_rng(seed)) for seed in range(count)]


def test_a_changed_report_is_made_of_sentences_of_the_reports(changed):
    known = {sentence for report in REPORTS for sentence in sentences(report)}
    texts = [text for report in REPORTS for text in many(changed, report, 50)]
    assert all(set(sentences(text)) <= known for text in texts)
    assert len(set(texts)) > 10


def test_findings_are_put_into_a_normal_report(changed):
    states = np.asarray(label_reports(many(changed, NORMAL)))
    found = (states[:, :13] == 1).any(1)
    # A second change may take out again what the first put in.
    assert found.mean() > 0.7
    # Each label that any report states, not the commonest alone.
    stated = (np.asarray(label_reports(REPORTS))[:, :13] == 1).any(0)
    assert ((states[:, :13] == 1).any(0) == stated).all() and stated.sum() >= 3


def test_what_denies_a_finding_makes_room_for_it(changed):
    for text in many(changed, NORMAL):
        if "effusion." in text and "small right" in text:
            assert "No pleural effusion" not in text
        if "atelectasis" in text:
            assert "The lungs are clear" not in text


def test_findings_are_taken_out_and_mostly_denied(changed):
    texts = many(changed, REPORTS[1])
    states = np.asarray(label_reports(texts))[:, EFFUSION]
    gone = states != 1
    assert 0.2 < gone.mean() < 0.7
    assert 0.5 < (states[gone] == 2).mean() < 0.9


def test_the_same_draw_makes_the_same_report(changed):
    assert many(changed, NORMAL, 20) == many(ChangedReports(REPORTS), NORMAL, 20)
    assert len(set(many(changed, NORMAL, 20))) > 3


def test_reports_that_state_nothing_are_left_alone():
    normal = ChangedReports(["The heart is normal in size. No pneumothorax."])
    assert labels(normal.change("No pneumothorax.", np.random.default_rng(0)))[OPACITY] == 0
    assert normal.change("", np.random.default_rng(0)) == ""


@pytest.fixture(scope="module")
def built():
    return tiny_model()


def weighted_text(processor, report: str) -> str:
    """The tokens of a report that weigh more, as text."""
    completion = processor.build_completion(report)
    ids = torch.tensor(processor.tokenizer(completion, add_special_tokens=False)["input_ids"])
    weights = finding_weights(completion, processor.tokenizer, 3.0)
    assert set(weights.tolist()) <= {1.0, 3.0} and len(weights) == len(ids)
    return processor.tokenizer.decode(ids[weights == 3.0]).strip()


@pytest.mark.parametrize(
    "report, stated",
    [
        (
            "The lungs are clear. There is a small right pleural effusion. No pneumothorax.",
            "small right pleural effusion",
        ),
        ("Possible left basilar pneumonia.", "Possible left basilar pneumonia"),
        ("No pneumothorax. The lungs are clear.", ""),
        ("", ""),
    ],
)
def test_sentences_that_state_a_finding_weigh_more(built, report, stated):
    text = weighted_text(built[1], report)
    assert stated in text
    assert "clear" not in text and "pneumothorax" not in text
    assert stated or not text


def test_denials_state_nothing():
    assert states_a_finding("Mild cardiomegaly") and states_a_finding("Possible edema")
    assert not states_a_finding("No pleural effusion") and not states_a_finding("The heart is normal in size")


def test_a_weight_of_one_is_the_plain_loss_and_more_pulls_towards_findings(built):
    model, processor = built
    rows = tiny_rows(6)
    plain, weighted = StudyCollator(processor)(rows), StudyCollator(processor, finding_weight=3.0)(rows)
    assert "label_weights" not in plain
    assert weighted["label_weights"].shape == weighted["labels"].shape
    with torch.no_grad():
        loss = model(**plain).lm_loss
        ones = model(**plain, label_weights=torch.ones_like(weighted["label_weights"])).lm_loss
        heavier = model(**{**weighted}).lm_loss
    torch.testing.assert_close(ones, loss)
    assert heavier > loss


def test_no_report_is_changed_into_none():
    short = ChangedReports(["Cardiomegaly.", "Right pleural effusion."])
    texts = many(short, "Cardiomegaly.")
    assert all(texts) and len(set(texts)) > 1


class PutInTooMuch(ChangedReports):
    """Puts in more than an LLM has positions for, but into one report."""

    def change(self, report, generator):
        return "No edema." if report == tiny_rows(2)[1]["report"] else f"{report} {'No pneumothorax. ' * 100}"


def test_a_change_that_does_not_fit_the_context_is_not_made():
    rows = tiny_rows(3)
    _, processor = tiny_model()
    processor.context_length = max(sum(study_tokens(row, processor, "report")) for row in rows)
    batch = StudyCollator(processor, shown=ShownLabels(0.0, 1.0, 0.0, PutInTooMuch([])))(rows)
    written = batch["labels"].where(batch["labels"] >= 0, processor.tokenizer.pad_token_id)
    reports = processor.batch_decode(written, skip_special_tokens=True)
    assert [report.strip() for report in reports] == [rows[0]["report"], "No edema.", rows[2]["report"]]
    assert torch.equal(batch["shown_labels"][::2], batch["disease_labels"][::2])
    assert batch["overridden_labels"].any(1).tolist() == [False, True, False]
