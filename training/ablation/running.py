"""Runs the stages of an ablation, each in a process of its own; what is done is not done again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from filelock import FileLock

from otdrg_hf.files import write_json
from otdrg_hf.training.ablation.plan import Stage

FINISHED = "finished.json"


def stage_folder(stage: Stage, output_dir: Path) -> Path:
    """Where the run of a stage is, whichever variants use it."""
    return output_dir / "stages" / f"{stage.fields.get('stage', 'joint')}-{stage.key}"


def run_stage(stage: Stage, output_dir: Path) -> Path:
    """
    Trains a stage, and those it starts from, unless that is done; an interrupted run resumes. Of several processes that
    want the same stage one trains it and the others wait.

    Returns:
        `Path`: The folder of the model.

    Raises:
        RuntimeError: if a run fails, with the end of its log.
    """
    folder = stage_folder(stage, output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "running.lock"):
        if not (folder / FINISHED).is_file():
            _train(stage, folder, output_dir)
    return folder


def _train(stage: Stage, folder: Path, output_dir: Path) -> None:
    fields = dict(stage.fields)
    if stage.start is not None:
        fields["model_name_or_path"] = str(run_stage(stage.start, output_dir))
        # The checkpoint brings its own.
        for name in ("vision_model", "text_model", "vision_config", "text_config", "label_encoder"):
            fields.pop(name, None)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**fields, "output_dir": str(folder)}), encoding="utf-8")
    started = time.perf_counter()
    log = folder / "log.txt"
    with log.open("ab") as file:
        # One process on one GPU, whatever there are: batch sizes, which the key of the stage covers, are of a device.
        command = [sys.executable, "-m", stage.script, "--config", str(recipe)]
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        environment = {"OMP_NUM_THREADS": str(os.cpu_count()), **os.environ, "CUDA_VISIBLE_DEVICES": device}
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        end = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()[-8:]
        raise RuntimeError(f"Training failed; see {log}:\n" + "\n".join(end))
    write_json(folder / FINISHED, {"seconds": round(time.perf_counter() - started)})
