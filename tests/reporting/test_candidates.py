"""Candidates: those that state the predicted labels come first, then those that agree with the others."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf.labeling import LABELS
from otdrg_hf.reporting import load_reporter, rank_candidates, report_studies
from otdrg_hf.reporting.candidates import consensus, contradictions
from otdrg_hf.reporting.split import generate_predictions
from tests.support.tiny_models import make_films

CLEAR = "The lungs are clear. No pleural effusion or pneumothorax."
CLEAR_TOO = "The lungs are clear. No pneumothorax or pleural effusion is seen."
EFFUSION = "There is a small left pleural effusion. No pneumothorax."
POSSIBLE = "Possible small left pleural effusion. No pneumothorax."
ODD = "Oste spine of the."


def findings(**states):
    named = {name.replace("_", " "): state for name, state in states.items()}
    return [{"label": label, "state": named.get(label, "blank"), "score": 0.5} for label in LABELS]


@pytest.mark.parametrize(("state", "best"), [("positive", EFFUSION), ("uncertain", POSSIBLE)])
def test_a_report_that_states_the_labels_comes_before_the_consensus(state, best):
    texts = [CLEAR, CLEAR_TOO, CLEAR, EFFUSION, POSSIBLE]
    assert rank_candidates(texts, findings(Pleural_Effusion=state))[0] == best
    assert rank_candidates(texts, findings(Pleural_Effusion="negative"))[0] == CLEAR


def test_absent_is_denied_or_not_stated():
    counts = contradictions([CLEAR, EFFUSION, POSSIBLE, ODD], findings(Pleural_Effusion="negative", Edema="positive"))
    assert counts.tolist() == [1, 2, 2, 1]


def test_no_finding_and_labels_of_others_do_not_count():
    own = [{"label": "Scoliosis", "state": "positive", "score": 1.0}]
    assert contradictions([CLEAR], findings(No_Finding="negative")).tolist() == [0]
    assert contradictions([CLEAR, EFFUSION], own).tolist() == [0, 0]
    assert rank_candidates([CLEAR, CLEAR_TOO], own)


def test_the_odd_one_agrees_least():
    scores = consensus([CLEAR, CLEAR_TOO, ODD, CLEAR])
    assert scores.argmin() == 2 and scores.argmax() in (0, 3) and scores.max() <= 1
    assert consensus([ODD]).tolist() == [1.0] and consensus([CLEAR, CLEAR]).tolist() == pytest.approx([1, 1])


@given(st.lists(st.sampled_from([CLEAR, CLEAR_TOO, EFFUSION, ODD, "", " . "]) | st.text(max_size=30), max_size=6))
def test_ranking_keeps_all_texts_whatever_they_hold(texts):
    ranked = rank_candidates(texts, findings(Pleural_Effusion="positive"))
    assert sorted(ranked) == sorted(texts)
    counts = contradictions(ranked, findings(Pleural_Effusion="positive"))
    assert (counts[1:] >= counts[:-1]).all()


def test_the_greedy_report_comes_first_of_those_that_state_the_labels():
    own = findings(Pleural_Effusion="negative")
    assert rank_candidates([CLEAR, CLEAR_TOO, CLEAR], own, greedy=CLEAR_TOO)[0] == CLEAR_TOO
    wrong = rank_candidates([CLEAR, CLEAR_TOO, EFFUSION], findings(Pleural_Effusion="positive"), greedy=CLEAR)
    assert wrong[0] == EFFUSION and wrong[1] == CLEAR


@pytest.fixture(scope="module")
def report(folder):
    return load_reporter(str(folder), "cpu")


def test_studies_get_the_best_of_their_candidates_always_the_same(report):
    studies = [{"images": [image]} for image in make_films(3)]
    options = {"candidates": 4, "max_new_tokens": 8, "description": None}
    answers = list(report_studies(report, studies, **options))
    greedy = [answer["generated_text"] for answer in report_studies(report, studies, **{**options, "candidates": 1})]
    for answer, text in zip(answers, greedy, strict=True):
        assert len(answer["candidates"]) == 4 and text in answer["candidates"]
        assert answer["candidates"] == rank_candidates(answer["candidates"], answer["findings"], text)
        assert answer["generated_text"] == answer["candidates"][0] and len(set(answer["candidates"])) > 1
    # A study alone in its batch is sampled as it is anywhere.
    [again] = report_studies(report, studies[2:], **options)
    assert again["candidates"] == answers[2]["candidates"]


def test_candidates_encode_an_image_once(report):
    tower, runs = report.model.model.vision_tower, []
    hook = tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        list(report_studies(report, [{"images": make_films(1)}], candidates=3, max_new_tokens=2, description=None))
    finally:
        hook.remove()
    assert len(runs) == 1


def test_a_seed_repeats_samples_and_leaves_the_random_state(report):
    image, options = make_films(1)[0], {"do_sample": True, "num_return_sequences": 3}

    def sample(**seed):
        return report(image, max_new_tokens=8, generate_kwargs=options, **seed)["candidates"]

    before = torch.get_rng_state()
    assert sample(seed=1) == sample(seed=1) != sample(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    sample()
    assert not torch.equal(before, torch.get_rng_state())


def test_predictions_with_candidates_resume_to_the_same_file(folder, tmp_path):
    options = {"num_studies": 5, "batch_size": 2, "device": "cpu", "max_new_tokens": 6, "candidates": 3}
    whole = generate_predictions(str(folder), "phantom", tmp_path / "whole", **options)
    lines = whole.read_text().splitlines(keepends=True)
    settings = json.loads((tmp_path / "whole" / "generation.json").read_text())
    assert len(lines) == 5 and settings["sampling"]["num_return_sequences"] == 2  # and the greedy one
    resumed = generate_predictions(str(folder), "phantom", tmp_path / "resumed", **{**options, "num_studies": 3})
    resumed.write_text("".join(lines[:3]))
    generate_predictions(str(folder), "phantom", tmp_path / "resumed", **options)
    assert resumed.read_text() == "".join(lines)
    with pytest.raises(ValueError, match="output_dir|settings"):
        generate_predictions(str(folder), "phantom", tmp_path / "whole", **{**options, "candidates": 1})
