"""`otdrg evaluate --operating_points`: reports at several points, scored by the labels that they state."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from otdrg_hf.evaluation.operating_points import POINTS, OperatingPoints, point_name
from otdrg_hf.evaluation.plots import plot_points
from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.metrics.bootstrap import resampled_figures
from otdrg_hf.metrics.clinical import clinical_statistics
from otdrg_hf.metrics.report_card import disease_head_card
from otdrg_hf.reporting import load_reporter, loading
from otdrg_hf.reporting import split as reporting_split

CURVE = [[0.9, 1.0, 0.2], [0.3, 0.7, 0.9], [0.01, 0.1, 1.0]]
FITTED = {
    "positive_thresholds": [0.5] * 14,
    "operating_curves": {label: [] if label == "Edema" else CURVE for label in LABELS if label != "No Finding"},
}


@pytest.fixture
def otdrg(otdrg, no_java):
    """Runs `otdrg evaluate`."""
    return partial(otdrg, "evaluate")


@pytest.fixture
def calibrated(folder, tmp_path):
    """A tiny checkpoint with curves."""
    copy = shutil.copytree(folder, tmp_path / "calibrated")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **FITTED}))
    return copy


def test_reports_at_each_point_are_scored_in_one_go(otdrg, calibrated, data, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(loading, "load_reporter", lambda *given: loaded.append(given) or load_reporter(*given))
    monkeypatch.setattr(reporting_split, "load_reporter", loading.load_reporter)
    command = (
        "--model",
        calibrated,
        "--dataset",
        data,
        "--output_dir",
        "out",
        "--max_new_tokens",
        4,
        "--device",
        "cpu",
    )
    code, out, err = otdrg(*command, "--operating_points", "--num_bootstrap", 20)
    assert code == 0, err
    assert len(loaded) == 1
    results = json.loads((tmp_path / "out/operating_points.json").read_text())
    # Those without a point are the balanced ones: they are reported once.
    folders = {point_name(point): f"out/operating_points/{point_name(point)}" for point in POINTS} | {"balanced": "out"}
    assert set(results) == {"constant", *folders} and "balanced" not in POINTS
    assert sum(name.startswith("recall=") for name in folders) >= 5 and {"specific", "sensitive"} < set(folders)
    assert (tmp_path / "out/operating_points.png").stat().st_size > 1000
    assert "| balanced" in out and "| recall=0.95" in out and "could not reach it on validation" in out
    for name, folder in folders.items():
        rows = [json.loads(line) for line in (tmp_path / folder / "predictions.jsonl").read_text().splitlines()]
        settings = json.loads((tmp_path / folder / "generation.json").read_text()).get("operating_point", {})
        expected = set() if name == "balanced" else {"Edema"}
        assert set(settings.get("unreached", {})) == expected == set(results[name]["unreached"])
        stated, true = (label_reports([row[column] for row in rows]) for column in ("generated_text", "reference"))
        part = clinical_statistics(stated, true)
        expected = part.figures(part.totals(), len(rows))
        for figure in ("ce13_micro_precision", "ce13_micro_recall"):
            assert results[name]["figures"][figure] == pytest.approx(float(expected[figure]))
            assert results[name]["figures"][f"{figure}_low"] <= results[name]["figures"][f"{figure}_high"]
        assert set(results[name]["f1_over"]) == {"balanced", "constant"} - {name}
    # Again, with nothing left to report; as JSON it is one document.
    code, printed, _ = otdrg(*command, "--operating_points", "--num_bootstrap", 20, "--json")
    assert code == 0 and json.loads(printed)["operating_points"] == results


def test_predictions_of_another_calibration_are_not_resumed(otdrg, calibrated, data, tmp_path):
    command = (
        "--model",
        calibrated,
        "--dataset",
        data,
        "--output_dir",
        "out",
        "--max_new_tokens",
        2,
        "--device",
        "cpu",
    )
    assert otdrg(*command, "--operating_points", "--num_bootstrap", 0)[0] == 0
    config = json.loads((calibrated / "config.json").read_text())
    config["operating_curves"]["Fracture"] = [[0.7, 0.5, 1.0]]
    (calibrated / "config.json").write_text(json.dumps(config))
    code, _, err = otdrg(*command, "--operating_points", "--num_bootstrap", 0)
    assert code == 2 and "specific holds predictions made with operating_point" in err


@pytest.mark.parametrize("named", ["predictions", "nothing"])
def test_points_need_a_model_that_reports(otdrg, tmp_path, named):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "generated_text": "Clear.", "reference": "Clear."}\n')
    code, _, err = otdrg(*(["a.jsonl"] if named == "predictions" else []), "--operating_points")
    assert code == 2
    assert (
        err.strip() == "error: --operating_points needs --dataset: files of predictions have one operating point each"
    )


def test_a_model_without_curves_is_refused_before_it_reports(otdrg, folder, data, tmp_path):
    code, _, err = otdrg("--model", folder, "--dataset", data, "--output_dir", "out", "--operating_points")
    assert code == 2 and "otdrg calibrate MODEL --dataset" in err.splitlines()[-1] and not (tmp_path / "out").exists()


def points_of(states, true, num_bootstrap=20):
    cards = {name: disease_head_card(each, true, num_bootstrap=num_bootstrap) for name, each in states.items()}
    return OperatingPoints(
        cards, {name: resampled_figures(card.statistics, num_bootstrap, 0) for name, card in cards.items()}
    )


@pytest.mark.parametrize("num_bootstrap", [0, 20])
def test_tables_and_plots_with_and_without_intervals(num_bootstrap, tmp_path):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, (30, 14)).astype(np.int8)
    states = {"balanced": true, "sensitive": np.ones_like(true), "constant": np.zeros_like(true)}
    points = points_of(states, true, num_bootstrap)
    lines = points.text().splitlines()
    # In the order of recall, the constant last.
    assert [line.split("|")[1].strip() for line in lines[3:6]][-1] == "constant"
    assert ("[" in lines[3]) == bool(num_bootstrap)
    content = points.to_dict()
    assert content["balanced"]["f1_over"]["constant"]["difference"] == pytest.approx(1.0)
    assert "constant" not in content["constant"]["f1_over"]
    json.dumps(content, allow_nan=False)
    for kind in ("png", "svg"):
        points.write_plot(tmp_path / f"points.{kind}")
        assert (tmp_path / f"points.{kind}").stat().st_size > 1000
    with pytest.raises(ValueError, match="end the name of the plot"):
        plot_points({}, tmp_path / "points.txt", "recall", "precision")
