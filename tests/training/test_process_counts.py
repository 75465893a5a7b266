"""
FSDP2 takes the steps of one process, and a run goes on with another number of processes, on the CPU (gloo).

accelerate shards on accelerators alone, so that here torch's own `fully_shard` does what it does there. What is left to
check on GPUs is in docs/scale.md.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_count_worker import CASES, STEPS, sharded_steps, train

WORKER = Path(__file__).with_name("process_count_worker.py")


def launch(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", WORKER, *arguments]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def check_equal(log: list[dict], expected: list[dict]):
    assert len(log) == len(expected)
    for step, expected_step in zip(log, expected, strict=True):
        assert step == pytest.approx(expected_step, abs=1e-4)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    launch("sharded", folder)
    return torch.load(folder / "sharded.pt")


@pytest.mark.parametrize("case", CASES)
def test_sharded_steps_are_those_of_one_process(sharded, case, tmp_path):
    losses, weights = sharded[case]
    expected, expected_weights = sharded_steps(tmp_path, case == "lora")
    assert losses == pytest.approx(expected, abs=1e-4) and len(set(losses)) == STEPS
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0, msg=name)


def test_a_sharded_model_writes_reports_that_end_at_different_lengths(tmp_path):
    launch("reports", tmp_path)
    for whole, sharded in torch.load(tmp_path / "reports.pt").values():
        assert sharded == whole
        assert max(map(len, whole[::2])) < min(map(len, whole[1::2]))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    unbroken = train(tmp_path / "one", 1)
    half = len(unbroken) // 2
    (tmp_path / "two").mkdir()
    launch("train", tmp_path / "two")
    check_equal(torch.load(tmp_path / "two/train.pt"), unbroken)
    check_equal(train(tmp_path / "again", 1, str(tmp_path / f"two/run/checkpoint-{half}"))[half:], unbroken[half:])
    (tmp_path / "more").mkdir()
    launch("train", tmp_path / "more", tmp_path / f"one/checkpoint-{half}")
    check_equal(torch.load(tmp_path / "more/train.pt")[half:], unbroken[half:])
