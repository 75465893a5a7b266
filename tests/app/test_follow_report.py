"""The report of the page as it is written: it grows, ends with the pipeline's answer, and can be stopped."""

import threading
import time

import pytest
from PIL import Image

from otdrg_hf.app.events import follow_report
from otdrg_hf.app.study import PageStudy
from tests.support.tiny_models import make_films

LENGTH = 80


@pytest.fixture
def study():
    return PageStudy([Image.fromarray(make_films(1)[0])], ["frontal"], indication="Cough.")


def test_text_grows_and_ends_with_the_answer(report, study):
    *texts, answer = follow_report(report, study, LENGTH)
    expected = report(study.inputs(), evidence=True, max_new_tokens=LENGTH)
    assert len(texts) > 2 and all(isinstance(text, str) for text in texts)
    assert all(len(before) <= len(after) for before, after in zip(texts, texts[1:], strict=False))
    assert answer["generated_text"] == expected["generated_text"] == texts[-1]
    assert answer["findings"] == expected["findings"] and answer["evidence"].keys() == expected["evidence"].keys()
    assert not study.stop.is_set()  # a report that was written to its end is not called stopped


def test_whoever_asks_late_gets_a_whole_report(report, study):
    """The writer may be done with the text long before it is done with the evidence."""
    slow = report.postprocess

    def postprocess(outputs):
        time.sleep(0.3)
        return slow(outputs)

    report.postprocess = postprocess
    try:
        *_, answer = follow_report(report, study, LENGTH)
    finally:
        del report.postprocess
    assert answer["findings"] and not study.stop.is_set()


def test_stop_ends_the_writing(report, study):
    stream = follow_report(report, study, 200)
    next(stream)
    study.stop.set()
    *_, answer = stream
    full = report(study.inputs(), max_new_tokens=200)["generated_text"]
    assert study.stop.is_set() and len(answer["findings"]) == 14
    assert full.startswith(answer["generated_text"].rstrip("\N{REPLACEMENT CHARACTER}"))
    assert len(answer["generated_text"]) < len(full)
    *_, again = follow_report(report, study, LENGTH)  # the next report starts afresh
    assert again["generated_text"] and not study.stop.is_set()


def test_closing_the_page_ends_the_writing(report, study):
    before = threading.active_count()
    stream = follow_report(report, study, 200)
    next(stream)
    stream.close()
    assert study.stop.is_set() and threading.active_count() == before


def test_errors_come_through(report, study):
    study.given = {"Edema": "perhaps"}
    with pytest.raises(ValueError, match="'perhaps' is not a state of 'Edema'"):
        list(follow_report(report, study, LENGTH))


def test_beams_have_no_text_until_the_end(report, study, monkeypatch):
    monkeypatch.setattr(report.model.generation_config, "num_beams", 2)
    [answer] = follow_report(report, study, LENGTH)
    assert answer["generated_text"]
