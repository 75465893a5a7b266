"""Two processes stay in sync, and take the steps that one process takes with batches of twice the size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_process_worker import CASES, train, write_reports

WORKER = Path(__file__).with_name("two_process_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", WORKER, folder]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_twice_the_batch(case, folder, tmp_path):
    (first, log), (second, _) = (torch.load(folder / f"{case}-{rank}.pt") for rank in (0, 1))
    single = train(tmp_path, case, batch_size=4)
    alone = {name: value for name, value in single.model.named_parameters() if value.requires_grad}
    assert first.keys() == second.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=0, msg=name)
    losses = ("loss", "lm_loss", "ot_loss", "disease_loss", "eval_lm_loss", "eval_ot_loss", "eval_disease_macro_f1")
    assert any("eval_rouge_l" in step for step in log)
    losses = (*losses, "eval_rouge_l", "eval_ce14_micro_f1")
    for step, alone_step in zip(log, single.state.log_history, strict=True):
        assert {name: step[name] for name in losses if name in step} == pytest.approx(
            {name: alone_step[name] for name in losses if name in alone_step}, abs=1e-4
        )


def test_two_processes_write_the_reports_that_one_writes(folder, tmp_path):
    first, second = (torch.load(folder / f"reports-{rank}.pt") for rank in (0, 1))
    assert first == second == write_reports(tmp_path)
    assert len(set(first)) == 5
