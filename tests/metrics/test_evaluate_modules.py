"""Each metric loads offline by path and works with add_batch, combine and a gather over processes."""

import json
import subprocess
import sys

import pytest

from otdrg_hf.metrics import evaluate_reports, metric_path

evaluate = pytest.importorskip("evaluate")

pytestmark = pytest.mark.usefixtures("offline_metrics")

NAMES = ("bleu", "rouge_l", "cider", "clinical_efficacy")
PREDICTIONS = ["there is cardiomegaly .", "the lungs are clear .", "", "left effusion ."]
REFERENCES = ["the heart is enlarged .", "right pneumothorax .", "no effusion .", "left pleural effusion ."]


@pytest.fixture(scope="module")
def expected():
    return evaluate_reports(PREDICTIONS, REFERENCES, meteor=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nested", [False, True])
def test_batches_give_the_figures_of_evaluate_reports(name, nested, expected):
    metric = evaluate.load(metric_path(name))
    references = [[text] for text in REFERENCES] if nested else REFERENCES
    metric.add_batch(predictions=PREDICTIONS[:3], references=references[:3])
    metric.add_batch(predictions=PREDICTIONS[3:], references=references[3:])
    figures = metric.compute()
    assert figures == {key: pytest.approx(expected[key], abs=1e-12) for key in figures}
    assert len(figures) == {"bleu": 4, "rouge_l": 1, "cider": 1, "clinical_efficacy": 58}[name]


def test_combine_gives_all_figures_under_their_names(expected):
    combined = evaluate.combine([metric_path(name) for name in NAMES])
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        combined.add_batch(predictions=[prediction], references=[reference])
    figures = combined.compute()
    assert len(figures) == 64
    assert figures == {key: pytest.approx(expected[key], abs=1e-12) for key in figures}


def test_meteor_without_java_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    figures = evaluate.load(metric_path("meteor")).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert figures == {"meteor": None, "meteor_reason": "not computed: needs Java"}


def test_unknown_metric():
    with pytest.raises(ValueError, match="give one of bleu, cider, clinical_efficacy, meteor, rouge_l"):
        metric_path("bertscore")


WORKER = """
import json
import sys
import evaluate
path, cache, predictions, references = json.loads(sys.argv[1])
metric = evaluate.load(path, num_process=2, process_id=1, experiment_id="two", cache_dir=cache)
metric.add_batch(predictions=predictions, references=references)
print(metric.compute())
"""


def test_two_processes_gather_all_reports(tmp_path, monkeypatch, expected):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    path, cache = metric_path("cider"), str(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", WORKER, json.dumps([path, cache, PREDICTIONS[2:], REFERENCES[2:]])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metric = evaluate.load(path, num_process=2, process_id=0, experiment_id="two", cache_dir=cache)
    try:
        metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
        figures = metric.compute()
    finally:
        answer, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors
    assert figures["cider"] == pytest.approx(expected["cider"], abs=1e-12)
    assert answer.strip() == "None"
