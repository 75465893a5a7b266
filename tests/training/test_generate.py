"""Reports of a split by two processes: the file that one writes, whatever was written before a kill."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from tiny_training import speak_up, tiny_model, write_study_folder

from otdrg_hf.reporting.predictions import merge_shares, share_folder
from otdrg_hf.reporting.split import generate_predictions

STUDIES = 7  # which two processes cannot share evenly, in batches of two


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A model that tells studies apart, studies, and the file of an unbroken run of one process."""
    path = tmp_path_factory.mktemp("generate")
    model, processor = tiny_model()
    speak_up(model).save_pretrained(path / "model")
    processor.save_pretrained(path / "model")
    (path / "data").mkdir()
    data = write_study_folder(path / "data", test=STUDIES)
    options = {"batch_size": 2, "max_new_tokens": 6, "device": "cpu"}
    whole = generate_predictions(str(path / "model"), str(data), path / "whole", **options)
    assert len({json.loads(line)["generated_text"] for line in whole.read_text().splitlines()}) == STUDIES
    return path, whole


def launch(case, output_dir, processes: int, *options: str, fails: bool = False) -> str:
    path, _ = case
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
    if processes > 1:
        launcher += ["--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    arguments = ["--model", path / "model", "--dataset", path / "data", "--output_dir", output_dir, "--cpu"]
    arguments += ["--batch_size", "2", "--max_new_tokens", "6", *options]
    command = [*launcher, "-m", "otdrg_hf.training.generate", *arguments]
    done = subprocess.run(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert (done.returncode != 0) == fails, done.stderr.decode()[-3000:]
    return (done.stderr if fails else done.stdout).decode()


def test_two_processes_write_what_one_writes_and_go_on_after_a_kill(case, tmp_path):
    _, whole = case
    lines = whole.read_text().splitlines(keepends=True)
    output_dir = tmp_path / "out"
    # As three processes would have left it that were killed: two whole shares and a torn line.
    for process, text in ((0, "".join(lines[0:2])), (1, ""), (2, lines[4] + lines[5][:20])):
        folder = share_folder(output_dir, process)
        folder.mkdir(parents=True)
        (folder / "predictions.jsonl").write_text(text)
        shutil.copy(whole.with_name("generation.json"), folder)
    printed = launch(case, output_dir, 2)
    assert "bleu_4" in printed.lower().replace("-", "_")
    for name in ("predictions.jsonl", "generation.json"):
        assert (output_dir / name).read_bytes() == whole.with_name(name).read_bytes()
    assert json.loads((output_dir / "figures.json").read_text())
    assert not (output_dir / "shards").exists()


def test_other_settings_are_refused_before_anything_is_written(case, tmp_path):
    _, whole = case
    folder = share_folder(tmp_path / "out", 0)
    folder.mkdir(parents=True)
    for name in ("predictions.jsonl", "generation.json"):
        shutil.copy(whole.with_name(name), folder)
    error = launch(case, tmp_path / "out", 1, "--max_new_tokens", "5", fails=True)
    assert "error: " in error and "max_new_tokens 6, not 5" in error
    assert (folder / "predictions.jsonl").read_bytes() == whole.read_bytes()


def test_a_share_that_is_not_there_is_named(case, tmp_path):
    _, whole = case
    folder = share_folder(tmp_path, 0)
    folder.mkdir(parents=True)
    for name in ("predictions.jsonl", "generation.json"):
        shutil.copy(whole.with_name(name), folder)
    with pytest.raises(ValueError, match="1 studies have no prediction, the first is 'another'"):
        merge_shares(tmp_path, [f"study-{index}" for index in range(STUDIES)] + ["another"])
    assert not (tmp_path / "predictions.jsonl").exists() and folder.is_dir()
