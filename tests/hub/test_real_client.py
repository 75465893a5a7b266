"""The Hub's own client, against a miniature of the Hub: a push, a second push, and what a stranger downloads."""

import huggingface_hub
import numpy as np
from transformers import pipeline

from otdrg_hf.hub.push import plan_push, push_model
from tests.hub.hub_server import COMMIT, HubServer
from tests.support.other_environment import run_without_package
from tests.support.tiny_models import make_films

DOWNLOAD = """
import json
import numpy as np
from transformers import pipeline
report = pipeline("radiology-report", model="org/model", trust_remote_code=True)
print(json.dumps([report(np.load("film.npy"), max_new_tokens=8), type(report).__module__.split(".")[0]]))
"""


def test_a_push_and_what_a_stranger_gets(published, tmp_path, monkeypatch):
    with HubServer() as hub:
        client = huggingface_hub.HfApi(hub.endpoint, token="hf_of_the_test")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_the_test")
        plan = plan_push(published, "org/model", private=True)
        assert push_model(plan, "Tiny") == f"{hub.endpoint}/org/model/commit/{COMMIT}"
        expected = {file.name: file.path.read_bytes() for file in plan.files}
        assert hub.files == expected
        assert hub.created["name"] == "model" and hub.private
        assert [commit["summary"] for commit in hub.commits] == ["Tiny"]

        film = make_films(1)[0]
        np.save(tmp_path / "film.npy", film)
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        answer, package = run_without_package(DOWNLOAD, folder=tmp_path, **environment)
        assert package == "transformers_modules"
        assert answer == pipeline("radiology-report", model=str(published))(film, max_new_tokens=8)

        hub.files |= {"model-00001-of-00002.safetensors": b"stale", "figure.png": b"kept"}
        push_model(plan)
        assert hub.files == expected | {"figure.png": b"kept"} and len(hub.commits) == 2
