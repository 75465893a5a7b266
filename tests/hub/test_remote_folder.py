"""Exactly the files that `otdrg push --dry_run` lists run in an interpreter that has no otdrg_hf."""

import json
import shutil
import subprocess
import sys

import numpy as np
from transformers import pipeline

from tests.support.tiny_models import make_films

PUSH = [sys.executable, "-m", "otdrg_hf", "push"]
RUN = """
import sys
sys.modules["otdrg_hf"] = None  # as if it were not installed: importing it raises ImportError
import json
import numpy as np
from transformers import pipeline
report = pipeline("radiology-report", model=sys.argv[1], trust_remote_code=True)
answer = report({"images": [np.load("film.npy")] * 2, "views": ["frontal", "lateral"]}, max_new_tokens=8)
print(json.dumps([answer, type(report).__module__.split(".")[0]]))
"""


def test_the_pushed_files_are_enough(published, tmp_path):
    (published / "checkpoint-4").mkdir()
    (published / "checkpoint-4" / "optimizer.pt").write_bytes(b"0")
    (published / "training_log.json").write_text("[]")
    # A Hub that cannot be there: a dry run asks nobody.
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    command = [*PUSH, str(published), "org/tiny-otdrg", "--dry_run", "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    plan = json.loads(listed.stdout)
    assert plan["commit"] is None and plan["size"] == sum(file["size"] for file in plan["files"])
    pushed = tmp_path / "downloaded"
    pushed.mkdir()
    for file in plan["files"]:
        shutil.copy(published / file["name"], pushed / file["name"])
        assert (pushed / file["name"]).stat().st_size == file["size"]

    film = make_films(1)[0]
    np.save(tmp_path / "film.npy", film)
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", RUN, str(pushed)],
        capture_output=True,
        text=True,
        env={**environment, "PATH": ""},
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    answer, package = json.loads(process.stdout.splitlines()[-1])
    study = {"images": [film, film], "views": ["frontal", "lateral"]}
    assert answer == pipeline("radiology-report", model=str(published))(study, max_new_tokens=8)
    assert package == "transformers_modules"
