"""Exactly the files that `otdrg push --dry_run` lists run in an interpreter that has no otdrg_hf."""

import json
import shutil

import huggingface_hub
import numpy as np
from transformers import pipeline

from tests.support.other_environment import run_without_package
from tests.support.tiny_models import make_films

RUN = """
import json, sys
import numpy as np
from transformers import pipeline
report = pipeline("radiology-report", model=sys.argv[1], trust_remote_code=True)
answer = report({"images": [np.load("film.npy")] * 2, "views": ["frontal", "lateral"]}, max_new_tokens=8)
print(json.dumps([answer, type(report).__module__.split(".")[0]]))
"""


def test_the_pushed_files_are_enough(published, otdrg, tmp_path, monkeypatch):
    (published / "checkpoint-4").mkdir()
    (published / "checkpoint-4" / "optimizer.pt").write_bytes(b"0")
    (published / "training_log.json").write_text("[]")
    # A Hub that cannot be there: a dry run asks nobody.
    nowhere = huggingface_hub.HfApi("http://127.0.0.1:9", token="hf_of_the_test")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: nowhere)
    code, out, err = otdrg("push", published, "org/tiny-otdrg", "--dry_run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["commit"] is None and plan["size"] == sum(file["size"] for file in plan["files"])
    pushed = tmp_path / "downloaded"
    pushed.mkdir()
    for file in plan["files"]:
        shutil.copy(published / file["name"], pushed / file["name"])
        assert (pushed / file["name"]).stat().st_size == file["size"]

    film = make_films(1)[0]
    np.save(tmp_path / "film.npy", film)
    answer, package = run_without_package(RUN, pushed, folder=tmp_path, HF_HUB_OFFLINE="1")
    study = {"images": [film, film], "views": ["frontal", "lateral"]}
    assert answer == pipeline("radiology-report", model=str(published))(study, max_new_tokens=8)
    assert package == "transformers_modules"
