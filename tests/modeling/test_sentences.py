"""Sentences in the answer of the pipeline, however it is decoded; the likelihood of tokens costs no forward pass."""

import math

import pytest
import torch
from transformers import pipeline

from otdrg_hf import RadiologyReportPipeline
from otdrg_hf.modeling.report_text_otdrg import written_log_probs
from tests.support.tiny_models import make_films, make_model

SHORT = {"max_new_tokens": 12}
CALIBRATION = {"intercept": 1.0, "weakest_label": 0.5, "likelihood": 0.2}
BEGINNING = "The heart is enlarged. No pneumothorax."


@pytest.fixture(scope="module")
def report(folder):
    return pipeline("radiology-report", model=str(folder))


@pytest.fixture(scope="module")
def calibrated(processor):
    return pipeline("radiology-report", model=make_model(sentence_calibration=CALIBRATION), processor=processor)


@pytest.fixture(scope="module")
def studies():
    films = make_films(3, size=(48, 40), seed=3)
    return [
        films[0],
        {"images": [films[1], films[2]], "views": ["frontal", "lateral"], "indication": "Cough."},
        {"images": films[2], "begins_with": BEGINNING},
        {"images": films[0], "disease_labels": {"Edema": "positive"}, "begins_with": "Mild edema."},
    ]


def test_only_a_calibrated_model_gives_sentences_unasked(report, calibrated, studies):
    assert "sentences" not in report(studies[0], **SHORT)
    plain = calibrated(studies[0], sentences=False, **SHORT)
    answer = calibrated(studies[0], **SHORT)
    assert "sentences" not in plain and plain == report(studies[0], **SHORT)
    assert {key: value for key, value in answer.items() if key != "sentences"} == plain
    assert report(studies[0], sentences=True, **SHORT)["generated_text"] == plain["generated_text"]


def test_sentences_of_batches_are_those_of_the_studies_one_by_one(calibrated, studies):
    single = [calibrated(study, evidence=True, **SHORT) for study in studies]
    for answer, expected in zip(calibrated(studies, batch_size=4, evidence=True, **SHORT), single, strict=True):
        assert answer["generated_text"] == expected["generated_text"]
        for row, alone in zip(answer["sentences"], expected["sentences"], strict=True):
            for key in ("text", "span", "section"):
                assert row[key] == alone[key]
            for key in ("likelihood", "least_likelihood", "confidence"):
                assert (row[key] is None) == (alone[key] is None)
                assert row[key] is None or row[key] == pytest.approx(alone[key], abs=2e-3)
            for label, other in zip(row["labels"], alone["labels"], strict=True):
                assert label["has_evidence"] == (label["label"] in answer["evidence"])
                assert {**label, "score": 0} == {**other, "score": 0}


def test_what_was_given_is_no_claim(calibrated, studies):
    of_draft, of_label = (calibrated(study, **SHORT)["sentences"] for study in studies[2:])
    assert of_draft[0]["text"] == "The heart is enlarged." and of_draft[0]["likelihood"] is None
    for row in (*of_draft[:2], of_label[0]):
        assert row["labels"] and all(label["given"] for label in row["labels"])
        assert row["confidence"] is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "temperature": 2.0, "top_k": 5},
        {"prompt_lookup_num_tokens": 2},
        {"cache_implementation": "static"},
        {"min_new_tokens": 12},
    ],
    ids=str,
)
@pytest.mark.parametrize("labels", [None, {"Edema": "positive"}], ids=["predicted", "revised"])
def test_likelihood_is_what_a_forward_pass_would_give(model, processor, films, options, labels):
    inputs = processor(images=[films[0]], disease_labels=labels or {})
    if options.get("prompt_lookup_num_tokens") and labels:
        pytest.skip("no revision with a prompt lookup")
    torch.manual_seed(0)
    returned = {"return_dict_in_generate": True, "output_logits": True}
    written = model.generate(**inputs, **SHORT, **options, **returned)
    length = inputs["input_ids"].shape[1]
    log_probs = written_log_probs(written, length)
    features = model.get_image_features(
        inputs["pixel_values"], inputs["view_mask"], inputs["disease_labels"], return_dict=True
    )
    rows = torch.zeros(len(written.sequences), dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=written.sequences, mm_encoder_outputs={"image": features.of_studies(rows)}).logits
    expected = logits[:, length - 1 : -1].log_softmax(-1)
    tokens = written.sequences[:, length:]
    expected = expected.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    until_end = (tokens == 2).cumsum(-1) <= (tokens == 2).long()
    torch.testing.assert_close(log_probs[until_end], expected[until_end], atol=2e-3, rtol=1e-3)


def test_candidates_have_sentences_each(calibrated, studies):
    options = {"num_beams": 3, "num_return_sequences": 3}
    answer = calibrated(studies[0], generate_kwargs=options, **SHORT)
    assert len(answer["candidate_sentences"]) == 3 and answer["candidate_sentences"][0] == answer["sentences"]
    for text, rows in zip(answer["candidates"], answer["candidate_sentences"], strict=True):
        assert all(text[slice(*row["span"])] == row["text"] for row in rows)


def test_tokens_are_those_of_the_text(report, studies, monkeypatch):
    seen = []
    monkeypatch.setattr(
        RadiologyReportPipeline, "read_sentences", staticmethod(lambda text, *_, **k: seen.append((text, k)))
    )
    for study in studies:
        report(study, sentences=True, **SHORT)
    for text, given in seen:
        ends = [end for end, _ in given["tokens"]]
        assert ends == sorted(ends) and given["draft_length"] <= ends[0] and ends[-1] == len(text)
        assert all(log_prob <= 0 and math.isfinite(log_prob) for _, log_prob in given["tokens"])


def test_without_the_labeler_there_are_none(calibrated, studies, monkeypatch):
    monkeypatch.setattr(RadiologyReportPipeline, "read_sentences", None)
    assert "sentences" not in calibrated(studies[0], **SHORT)
    with pytest.raises(ValueError, match="`sentences` needs the labeler of otdrg_hf"):
        calibrated(studies[0], sentences=True, **SHORT)
