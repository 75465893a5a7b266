"""Two processes with whole groups of samples each take the steps that one process takes with all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_rewards import save_start, weights
from tiny_training import write_study_folder
from two_process_reward_worker import train

WORKER = Path(__file__).with_name("two_process_reward_worker.py")
LOGGED = ("reward", "rewards/rouge_l", "distinct", "left_out", "kl", "entropy", "completions/mean_length")


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    (tmp_path / "data").mkdir()
    data = write_study_folder(tmp_path / "data", train=8, validation=3)
    start = save_start(tmp_path / "start")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", WORKER, tmp_path]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    alone = train(tmp_path / "alone", data, start, 16)
    assert first[0].keys() == second[0].keys() == alone[0].keys()
    for name, value in alone[0].items():
        assert torch.equal(first[0][name], second[0][name]), name
        torch.testing.assert_close(first[0][name], value, atol=1e-4, rtol=0, msg=name)
    # A step that is wrong by a factor would show.
    assert max((value - weights(start)[name]).abs().max() for name, value in alone[0].items()) > 1e-3
    steps, alone_steps = ([entry for entry in log if "kl" in entry] for log in (first[1], alone[1]))
    assert len(steps) == len(alone_steps) == 2
    for step, alone_step in zip(steps, alone_steps, strict=True):
        assert {name: step[name] for name in LOGGED} == pytest.approx(
            {name: alone_step[name] for name in LOGGED}, abs=1e-4
        )
    assert first[2] == second[2] and [each["name"] for each in first[2]] == [each["name"] for each in alone[2]]
