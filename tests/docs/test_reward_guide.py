"""The command lines of docs/reward.md run as they stand, on few phantoms, from the bundled model."""

import shlex

import pytest

from otdrg_hf import DEMO_CHECKPOINT
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


def test_the_guide_has_lines_to_run():
    assert len(LINES) >= 3
