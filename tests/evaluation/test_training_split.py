"""What baselines take from the training split of a dataset that a model has reported."""

import json

import pytest
from PIL import Image

from otdrg_hf.evaluation.baselines import TrainingReports
from otdrg_hf.evaluation.command import run_evaluate
from otdrg_hf.evaluation.training_split import dataset_training_reports, nearest_reports
from otdrg_hf.reporting.loading import load_reporter
from tests.support.tiny_models import make_films

TEXTS = ["The heart is enlarged.", "The lungs are clear.", "", "There is a left pleural effusion."]


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory):
    """Four training, one validation and three test studies; test studies 0 and 3 have the images of training ones."""
    folder = tmp_path_factory.mktemp("split")
    films, lines = make_films(8), []
    studies = [*(("train", number, number) for number in range(4)), ("validation", 0, 6)]
    studies += [("test", 0, 0), ("test", 3, 3), ("test", 1, 7)]
    for split, text, film in studies:
        name = f"{split}{text}.png"
        Image.fromarray(films[film]).save(folder / name)
        row = {"id": f"{split}{text}", "file_names": [name], "findings": TEXTS[text], "impression": "", "split": split}
        lines.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def test_reports_of_the_other_splits(split_folder, data):
    found = dataset_training_reports(split_folder, "findings")
    assert found == TrainingReports([text for text in TEXTS if text], TEXTS[:1])
    assert dataset_training_reports(data, "findings") is None  # a test split alone


def test_the_nearest_training_study_is_the_one_with_the_same_images(split_folder, data, folder):
    reporter = load_reporter(folder, "cpu")
    reports = nearest_reports(reporter, split_folder, "test", "findings")
    assert reports["test0"] == TEXTS[0] and reports["test3"] == TEXTS[3] and reports["test1"] in TEXTS
    assert set(nearest_reports(reporter, split_folder, "test", "findings", num_neighbours=1).values()) == {TEXTS[0]}
    assert nearest_reports(reporter, data, "test", "findings") is None


def test_a_reported_split_has_all_baselines(split_folder, folder, tmp_path, capsys, no_java):
    generation = {"split": "test", "max_new_tokens": 2}
    options = {"section": "findings", "num_bootstrap": 0, "output_dir": tmp_path / "out", "device": "cpu"}
    run_evaluate(
        dataset=str(split_folder), model=str(folder), generation=generation, num_neighbours=9, as_json=True, **options
    )
    baselines = json.loads(capsys.readouterr().out)["baselines"]
    assert list(baselines) == ["constant", "constant_ce14", "constant_ce13", "shuffled", "nearest"]
    assert not baselines["constant"]["peeks"] and baselines["nearest"]["diversity"]["distinct_reports"] >= 2
