"""The command lines of docs/reward.md run as they stand, on few phantoms, from the bundled model."""

import json
import shlex
from pathlib import Path

import pytest

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.training import transfer
from otdrg_hf.training.grpo import main

from .guide_blocks import blocks_of

GUIDE = "docs/reward.md"
LINES = [line for block in blocks_of(GUIDE) for line in block.lines() if "training/grpo.py" in line]
# What stands for checkpoints and data that are not there.
SMALLER = (
    f"--model_name_or_path {DEMO_CHECKPOINT} --dataset phantom_hard --target report --train_studies 4 --eval_studies 2 "
    "--watch_studies 2 --load_kwargs '{\"image_size\": 64}' --max_steps 1 --num_generations 2 "
    "--per_device_train_batch_size 4 --per_device_eval_batch_size 2 --max_completion_length 8 --use_cpu true "
    "--bf16 false --disable_tqdm true --save_strategy no"
)


@pytest.mark.parametrize("line", LINES)
def test_command_lines_run(line, workplace):
    words = shlex.split(line)
    arguments = words[words.index("training/grpo.py") + 1 :]
    if "iu_xray" in line:
        arguments += ["--watch", "phantom:test", "--feature_cache", "features"]
    main([*(word for word in arguments if word != "data/mine:test:impression"), *shlex.split(SMALLER)])


def test_runs_are_averaged(workplace, capsys):
    [line] = [line for block in blocks_of(GUIDE) for line in block.lines() if "training/transfer.py" in line]
    [script, *folders] = line.split()[1:]
    assert script == "training/transfer.py" and len(folders) == 3
    for folder in folders:
        Path(folder).mkdir(parents=True)
        counts = {"before": [[0, 0, 1], [1, 0, 0]], "after": [[1, 0, 0], [1, 0, 0]]}
        Path(folder, transfer.TRANSFER_FILE).write_text(json.dumps([{"name": "x test report", "counts": counts}]))
    transfer.main(folders)
    assert capsys.readouterr().out.startswith("3 runs. CE13 micro-F1 of reports after the reward minus before")


def test_the_guide_has_lines_to_run():
    assert len(LINES) >= 3
