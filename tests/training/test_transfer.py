"""What is watched while a reward is learned: datasets, splits and sections, and comparisons of what was written."""

import json

import pytest
from tiny_training import tiny_studies, write_study_folder

from otdrg_hf.training.reward_arguments import RewardArguments
from otdrg_hf.training.transfer import (
    BEFORE_FILE,
    TRANSFER_FILE,
    TransferWatch,
    difference_over_runs,
    load_watched,
    main,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_study_folder(tmp_path_factory.mktemp("data"), train=6, validation=3, test=4)


def watched(data, *names, **options):
    args = RewardArguments(dataset=str(data), watch=list(names), watch_studies=2, **options)
    return load_watched(args, tiny_studies(3))


def test_names_are_of_dataset_split_and_section_and_not_of_folders(data):
    found = watched(data, f"{data}:test", f"{data}:train:impression", "phantom_hard:test_broken")
    assert [each.name for each in found] == [
        f"{data.name} validation report",
        f"{data.name} test report",
        f"{data.name} train impression",
        "phantom_hard test_broken report",
    ]
    assert [len(each.studies) for each in found] == [2] * 4
    assert found[2].section == "impression" and all(found[2].studies["impression"])


def test_phantoms_are_drawn_as_the_run_draws_its_own():
    args = RewardArguments(dataset="phantom", load_kwargs={"image_size": 64}, watch=["phantom_hard"], watch_studies=1)
    [_, hard] = load_watched(args, tiny_studies(1))
    assert hard.name == "phantom_hard test report" and hard.studies[0]["images"][0].size == (64, 64)


@pytest.mark.parametrize(
    "names, message",
    [
        (("phantom:test:report:x",), "is not DATASET"),
        (("phantom:test:indication",), "is not DATASET"),
        (("phantom:no_split",), "no_split"),
        (("no/such/folder",), "no/such/folder|folder"),
        (("phantom:test", "phantom"), "names a dataset twice"),
    ],
)
def test_what_is_not_there_is_named(data, names, message):
    with pytest.raises(ValueError, match=message):
        watched(data, *names)


class Trainer:
    """Writes what it is told to."""

    def __init__(self):
        self.logs = []

    def log(self, logs):
        self.logs.append(logs)


def test_scores_before_and_after_are_compared_study_by_study(data, tmp_path):
    own, other = watched(data, f"{data}:test")
    watch = TransferWatch([own, other], processor=None, max_new_tokens=8)
    watch.trainer = Trainer()
    truth = {each.name: list(each.studies["report"]) for each in (own, other)}
    nothing = {each.name: ["The heart is normal in size."] * 2 for each in (own, other)}
    watch.before = nothing
    watch._write = lambda: {**truth, other.name: nothing[other.name]}
    gained, same = watch.compare()
    assert gained["after"]["rouge_l"] == 1 > gained["before"]["rouge_l"]
    assert gained["difference"]["rouge_l"]["difference"] == pytest.approx(1 - gained["before"]["rouge_l"])
    assert same["before"] == same["after"] and same["difference"]["rouge_l"]["difference"] == 0
    assert any(f"watch/{own.name}/rouge_l" in logs for logs in watch.trainer.logs)
    json.dumps([gained, same])
    [over_one] = difference_over_runs([[gained]])
    change = gained["difference"]["ce13_micro_f1"]
    assert over_one["difference"]["ce13_micro_f1"] == {name: change[name] for name in ("difference", "low", "high")}


def run_of(before, after, name="d test report"):
    return [{"name": name, "counts": {"before": before, "after": after}}]


WRONG, RIGHT, NONE = [0, 0, 1], [1, 0, 0], [0, 0, 0]


def test_runs_are_averaged_over_the_same_resampled_studies():
    one = run_of([WRONG, RIGHT, NONE], [RIGHT, RIGHT, NONE])
    other = run_of([WRONG, RIGHT, NONE], [WRONG, RIGHT, NONE])
    [found] = difference_over_runs([one, other])
    assert found["difference"]["ce13_micro_f1"]["difference"] == pytest.approx((1 - 2 / 3) / 2)
    # A gain in one study and as much of a loss in it, in the other run, is nothing in every sample.
    [cancelled] = difference_over_runs([one, run_of([RIGHT, RIGHT, NONE], [WRONG, RIGHT, NONE])])
    assert cancelled["difference"]["ce13_micro_f1"] == {"difference": 0, "low": 0, "high": 0}
    # What one run alone has watched is left out.
    assert [each["name"] for each in difference_over_runs([one, [*other, *run_of([], [], "x")]])] == ["d test report"]


@pytest.mark.parametrize(
    "second, message",
    [
        (run_of([WRONG, NONE, NONE], [WRONG, NONE, NONE]), "same studies of d test report"),
        (run_of([WRONG], [WRONG]), "same studies of d test report"),
        ([{"name": "d test report"}], "kept no counts"),
    ],
)
def test_runs_that_cannot_be_averaged_are_named(second, message, tmp_path, capsys):
    for folder, run in (("one", run_of([WRONG, RIGHT, NONE], [RIGHT, RIGHT, NONE])), ("other", second)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / TRANSFER_FILE).write_text(json.dumps(run))
    main([str(tmp_path / "one")])
    assert capsys.readouterr().out.startswith("1 run. CE13 micro-F1 of reports after the reward minus before")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "one"), str(tmp_path / "other")])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("folders", [[], ["no/such/run"]])
def test_no_runs_are_one_line(folders, capsys):
    with pytest.raises(SystemExit):
        main(folders)
    assert capsys.readouterr().err.count("\n") == 1


def test_reports_of_before_are_those_of_the_same_studies(data, tmp_path):
    [own] = watched(data)
    watch = TransferWatch([own], processor=None, max_new_tokens=8)
    with pytest.raises(ValueError, match="watched other studies"):
        watch.read_before(str(tmp_path))
    (tmp_path / BEFORE_FILE).write_text(json.dumps({own.name: ["a", "b"]}))
    watch.read_before(str(tmp_path))
    assert watch.before == {own.name: ["a", "b"]}
    (tmp_path / BEFORE_FILE).write_text(json.dumps({own.name: ["a"]}))
    with pytest.raises(ValueError, match="watched other studies"):
        watch.read_before(str(tmp_path))
