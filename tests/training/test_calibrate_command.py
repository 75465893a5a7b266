"""`otdrg calibrate`: what it adds to a checkpoint, what it leaves alone, and one line for what cannot be calibrated."""

import json
import shutil
from functools import partial

import pytest

from otdrg_hf.labeling import LABELS
from otdrg_hf.reporting.loading import load_reporter
from tests.support.tiny_models import make_films

FITTED = {"operating_curves", "conformal_thresholds", "conformal_error_rate", "input_statistics"}
SCORES = {"score_calibration", "positive_thresholds"}
PHANTOMS = ("--dataset", "phantom", "--num_studies", 24, "--device", "cpu")


@pytest.fixture
def otdrg(otdrg):
    """Runs `otdrg calibrate`."""
    return partial(otdrg, "calibrate")


@pytest.fixture
def checkpoint(folder, tmp_path):
    """A copy of a tiny checkpoint, which has never been calibrated."""
    return shutil.copytree(folder, tmp_path / "checkpoint")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_it_adds_fields_to_the_configuration_and_leaves_the_rest(otdrg, checkpoint):
    before, fields = contents(checkpoint), config_of(checkpoint)
    code, out, err = otdrg(checkpoint, *PHANTOMS)
    assert code == 0, err
    after, fitted = contents(checkpoint), config_of(checkpoint)
    assert {name for name in after if after[name] != before.get(name)} == {
        "config.json"
    } and after.keys() == before.keys()
    changed = {name for name in fitted if fitted[name] != fields.get(name)}
    assert changed == FITTED | SCORES
    assert set(fitted["operating_curves"]) == set(LABELS) - {"No Finding"}
    assert set(fitted["conformal_thresholds"]) == set(LABELS) and fitted["conformal_error_rate"] == 0.1
    assert out.startswith("24 studies") and "Pneumothorax" in out and "No Finding" not in out


def test_a_calibrated_model_takes_points_and_gives_plausible_states(otdrg, checkpoint):
    assert otdrg(checkpoint, *PHANTOMS, "--error_rate", 0.2)[0] == 0
    report = load_reporter(checkpoint, "cpu")
    answer = report(make_films(1)[0], operating_point={"recall": 0.8}, max_new_tokens=2)
    assert answer["operating_point"]["asked"] == {"recall": 0.8}
    assert all("plausible" in finding for finding in answer["findings"])
    assert report.model.config.conformal_error_rate == 0.2


def test_scores_that_are_calibrated_stay_unless_they_are_to_be_refitted(otdrg, checkpoint):
    assert otdrg(checkpoint, *PHANTOMS)[0] == 0
    first = config_of(checkpoint)
    code, out, _ = otdrg(checkpoint, *PHANTOMS, "--split", "test", "--json")
    assert code == 0 and set(json.loads(out)) == FITTED
    second = config_of(checkpoint)
    assert all(second[name] == first[name] for name in SCORES)
    assert second["conformal_thresholds"] != first["conformal_thresholds"]
    code, out, _ = otdrg(checkpoint, *PHANTOMS, "--split", "test", "--refit_scores", "--json")
    assert code == 0 and set(json.loads(out)) == FITTED | SCORES
    assert config_of(checkpoint)["score_calibration"] != first["score_calibration"]


def test_plausible_states_are_measured_on_another_split(otdrg, checkpoint):
    code, out, _ = otdrg(checkpoint, *PHANTOMS, "--test_split", "test")
    assert code == 0 and "plausible states of 24 studies of the split test" in out
    code, out, _ = otdrg(checkpoint, *PHANTOMS, "--test_split", "test", "--json")
    coverage = json.loads(out)["coverage"]
    assert set(coverage) == {*LABELS, "all"} and 0.6 <= coverage["all"]["coverage"] <= 1
    assert "coverage" not in config_of(checkpoint)


def test_the_same_studies_give_the_same_calibration(otdrg, checkpoint):
    outputs = [otdrg(checkpoint, *PHANTOMS, "--batch_size", size, "--json")[1] for size in (4, 8)]
    first, second = map(json.loads, outputs)
    assert first["conformal_thresholds"]["Edema"] == pytest.approx(second["conformal_thresholds"]["Edema"], abs=1e-4)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("--error_rate", 0), "error: the error rate is 0: give one between 0 and 1, such as 0.1; at 0 all states are"),
        (("--error_rate", 1), "error: the error rate is 1: give one between 0 and 1, such as 0.1; at 0 all states are"),
        (("--split", "testing"), "error: "),
        (("--dataset", "nowhere"), "error: "),
        (("--device", "abacus"), "error: There is no device 'abacus' here"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(otdrg, checkpoint, arguments, line):
    before = contents(checkpoint)
    code, out, err = otdrg(checkpoint, *PHANTOMS, *arguments)
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith(line) and out == "" and "Traceback" not in err
    assert contents(checkpoint) == before


def test_what_is_no_checkpoint_is_one_line(otdrg, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "llava"}')
    for name, reason in (
        ("org/model", "'org/model' is not a folder"),
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path / "empty", "'empty' holds no OTDRG model"),
        (tmp_path / "other", "'other' holds no OTDRG model"),
    ):
        code, _, err = otdrg(name, *PHANTOMS)
        assert code == 2 and reason in err and len(err.splitlines()) == 1


def test_an_interrupted_calibration_writes_nothing(otdrg, checkpoint, monkeypatch):
    from otdrg_hf.training import calibrate

    def fail(*_, **__):
        raise ValueError("stopped")

    before = contents(checkpoint)
    monkeypatch.setattr(calibrate, "fit_decisions", fail)
    code, _, err = otdrg(checkpoint, *PHANTOMS)
    assert code == 2 and err.splitlines()[-1] == "error: stopped" and contents(checkpoint) == before


def test_studies_with_other_labels_are_refused(otdrg, tmp_path, processor):
    from tests.support.tiny_models import make_model

    model = make_model(label_names=["Edema", "No Finding"], device_labels=[])
    model.save_pretrained(tmp_path / "two")
    processor.save_pretrained(tmp_path / "two")
    code, _, err = otdrg(tmp_path / "two", *PHANTOMS)
    assert code == 2 and "the model has 2 labels and the studies of phantom have 14" in err
