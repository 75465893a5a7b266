"""The loop over studies: in order, whatever they hold; those that cannot be read are answered in their position."""

import pytest
from PIL import Image
from transformers import pipeline

from otdrg_hf.reporting import load_reporter, model_name, report_studies
from otdrg_hf.reporting.loading import plain_name
from tests.support.tiny_models import make_films


@pytest.fixture(scope="module")
def report(folder):
    return load_reporter(str(folder), "cpu")


@pytest.fixture(scope="module")
def studies():
    images = [Image.fromarray(image) for image in make_films(5)]
    return [
        images[0],
        {"images": images[1:3], "views": ["frontal", "lateral"], "indication": "Cough."},
        {"images": [images[3]], "disease_labels": {"Pneumothorax": "positive"}},
        images[4],
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_studies_of_all_kinds_are_answered_as_by_the_pipeline(report, folder, studies, batch_size):
    answers = list(report_studies(report, iter(studies), batch_size=batch_size, max_new_tokens=6, description=None))
    alone = pipeline("radiology-report", model=str(folder), device="cpu")
    for study, answer in zip(studies, answers, strict=True):
        expected = alone(study, max_new_tokens=6)
        assert answer["generated_text"] == expected["generated_text"]
        assert [f["state"] for f in answer["findings"]] == [f["state"] for f in expected["findings"]]


@pytest.mark.parametrize("unreadable", [[0], [2, 3], [4], [0, 1, 4], [0, 1, 2, 3, 4]])
def test_those_that_cannot_be_read_are_answered_in_their_position(report, studies, unreadable):
    given = [ValueError(f"study {at}") if at in unreadable else studies[0] for at in range(5)]
    answers = list(report_studies(report, given, batch_size=2, max_new_tokens=2, description=None))
    assert [answer.get("error") for answer in answers] == [
        f"study {at}" if at in unreadable else None for at in range(5)
    ]


def test_studies_are_read_as_they_are_needed(report, studies):
    read = []

    def reading():
        for at in range(40):
            read.append(at)
            yield studies[0]

    answers = report_studies(report, reading(), batch_size=2, max_new_tokens=2, description=None)
    next(answers)
    assert len(read) <= 6  # the first batch, and at most two more ahead of it
    answers.close()


def test_evidence_and_beams(report, studies):
    options = {"generate_kwargs": {"num_beams": 2, "num_return_sequences": 2}, "max_new_tokens": 4}
    for answer in report_studies(report, studies[:2], evidence=True, description=None, **options):
        assert len(answer["candidates"]) == 2
        shown = {finding["label"] for finding in answer["findings"] if finding["state"] in ("positive", "uncertain")}
        assert set(answer["evidence"]) == shown


def test_progress_counts_what_an_earlier_run_finished(report, studies, capfd):
    list(report_studies(report, studies[:2], max_new_tokens=2, description="Writing", total=5, finished=3))
    assert "Writing" in (shown := capfd.readouterr().err) and "5/5" in shown
    list(report_studies(report, studies[:2], max_new_tokens=2, description=None))
    assert capfd.readouterr().err == ""


def test_names_of_models(folder, tmp_path):
    assert model_name(None) == "demo" and model_name("org/otdrg") == "org/otdrg"
    assert model_name(str(folder)) == folder.name == plain_name(folder)
    assert str(tmp_path) not in model_name(tmp_path)
