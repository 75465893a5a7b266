"""Runs the command lines of the guides in this process, on few studies and tiny models."""

import importlib.util
import re
import shlex
import sys

import pytest
from typer.testing import CliRunner

from otdrg_hf import cli

from .guide_blocks import ROOT

# What cannot run in a test, and why.
NOT_RUN = {
    r"make (demo|test|test-slow|lint|demo-checkpoint)": "is what runs these tests, or takes long",
    r"(\S*python3? -m )?pip install": "installs from a package index",
    r"git clone": "needs the network",
    r"hf auth login": "needs an account",
    r"ssh -L": "needs a second machine",
    r"otdrg watch .*--dicomweb": "needs a PACS",
    r"dsrdump": "comes with DCMTK",
    r"python tests/benchmarks/\w+\.py": "measures: takes minutes",
}
if importlib.util.find_spec("highdicom") is None:
    NOT_RUN[r"otdrg (watch|report .*--(sr|sc|fhir))\b"] = "needs otdrg-hf[hospital]"
# Added to a command, whose later options win.
SMALLER = {
    "otdrg report": "--max_new_tokens 8",
    "otdrg demo": "--num_studies 2",
    "otdrg calibrate": "--num_studies 24",
    "otdrg evaluate": "--num_bootstrap 20 --max_new_tokens 8",
    "otdrg rexrank": "--max_new_tokens 8",
    "otdrg watch": "--once --max_new_tokens 8",
    "otdrg prepare": "--num_proc 1 --image_size 64",
}
TRAINING = (
    "--max_steps 1 --per_device_train_batch_size 2 --per_device_eval_batch_size 2 --gradient_accumulation_steps 1 "
    "--image_size 56 --use_cpu true --bf16 false --dataloader_num_workers 0 --dataset_num_proc 1 --disable_tqdm true "
    "--eval_strategy no --save_strategy no --load_best_model_at_end false --generate_eval_studies 0"
)
PHANTOMS = """ --train_studies 4 --eval_studies 2 --load_kwargs '{"image_size": 64}'"""


def reason_not_to_run(line: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, line)), None)


def run_line(line: str, monkeypatch) -> None:
    """Runs a command line; fails where it ends with another exit code than 0."""
    words = shlex.split(line)
    if words[:2] == ["accelerate", "launch"]:
        return _train(_after_launcher(words))
    if words[:2] == ["otdrg", "train"]:
        return _train(words[2:])
    if words[:2] == ["python", "training/ablate.py"]:
        return _ablate(words[2:], monkeypatch)
    if words[:2] == ["python", "training/probe.py"]:
        return _probe([*words[2:], "--num_studies", "2"])
    if words[:3] == ["python", "-m", "otdrg_hf.evaluation.agreement"]:
        from otdrg_hf.evaluation.agreement import main

        monkeypatch.setattr(sys, "argv", words[2:])
        return main()
    assert words[0] == "otdrg", f"the tests do not know how to run: {line}"
    smaller = SMALLER.get(" ".join(words[:2]), "").split()
    monkeypatch.setattr(sys, "argv", [*words, *smaller])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, line


def _after_launcher(words: list[str]) -> list[str]:
    script = words.index("training/sft.py")
    launcher = words[2:script]
    assert launcher[:1] in ([], ["--config_file"]) and all((ROOT / name).is_file() for name in launcher[1:])
    return words[script + 1 :]


def _train(words: list[str]) -> None:
    from otdrg_hf.training.sft import main

    recipe = words[words.index("--config") + 1]
    more = PHANTOMS if "phantom" in recipe else " --train_vision_blocks 1" if "laptop_align" in recipe else ""
    main([*words, *shlex.split(TRAINING + more)])


def _probe(words: list[str]) -> None:
    from typer import Typer

    from otdrg_hf.training import probe

    app = Typer()
    app.command()(probe.main)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "stated" in result.output


def _ablate(words: list[str], monkeypatch) -> None:
    """The command line and the plan are read; the many trainings are for the tests of training."""
    from typer import Typer

    from otdrg_hf.training import ablate

    plans = []
    monkeypatch.setattr(ablate, "run_ablation", lambda plan, output_dir, jobs: plans.append(plan) or "")
    app = Typer()
    app.command()(ablate.main)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert plans[0].variants
