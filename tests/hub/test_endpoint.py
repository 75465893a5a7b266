"""What `otdrg push --endpoint` and `--space` write, loaded as the Hub's machines load it."""

import base64
import importlib.util
import io
import os
import re
import runpy
import sys

import pytest
import yaml
from PIL import Image

pytest.importorskip("fastapi")

import otdrg_hf  # noqa: E402
from otdrg_hf.hub.command import run_push  # noqa: E402
from otdrg_hf.hub.push import plan_push  # noqa: E402
from otdrg_hf.hub.space import TEMPLATES, space_files  # noqa: E402
from otdrg_hf.reporting import load_reporter, review_answer  # noqa: E402


@pytest.fixture
def deployed(published, hub, tmp_path):
    """The folder that an endpoint finds on its disk: the repository after a push."""
    run_push(published, "org/tiny-otdrg", endpoint=True)
    folder = tmp_path / "repository"
    for name, content in hub.repositories["org/tiny-otdrg"].branches["main"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def load_handler(folder, monkeypatch):
    """As `check_and_register_custom_pipeline_from_directory` of Hugging Face's inference toolkit 0.5.6 does."""
    name = "handler.EndpointHandler"
    spec = importlib.util.spec_from_file_location(name, folder / "handler.py")
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def test_endpoint(deployed, films, monkeypatch):
    handler = load_handler(deployed, monkeypatch)
    file = io.BytesIO()
    Image.fromarray(films[0]).save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    parameters = {"max_new_tokens": 12}
    expected = review_answer(load_reporter(deployed)(films[0], max_new_tokens=12))
    row = handler({"inputs": encoded, "parameters": parameters})
    assert {key: row[key] for key in expected} == expected and row["model"] == "repository"
    opened = handler({"inputs": Image.open(io.BytesIO(file.getvalue())), "parameters": parameters})
    study = handler({"inputs": {"images": [encoded], **parameters}})
    several = handler({"inputs": [encoded, {"images": [encoded]}], "parameters": parameters})
    assert opened["generated_text"] == study["generated_text"] == row["generated_text"]
    assert [each["generated_text"] for each in several] == [row["generated_text"]] * 2
    evidence = handler({"inputs": {"images": [encoded], "disease_labels": {"Edema": "positive"}, "evidence": "png"}})
    assert evidence["evidence"]["Edema"][0].startswith("data:image/png;base64,")
    for wrong in (
        {},
        {"inputs": "/etc/passwd"},
        {"inputs": {"images": []}},
        {"inputs": encoded, "parameters": {"x": 1}},
        {"inputs": encoded, "parameters": [1]},
        {"inputs": encoded, "parameters": {"operating_point": "best"}},
    ):
        with pytest.raises(ValueError) as error:
            handler(wrong)
        assert "\n" not in str(error.value) and "root:" not in str(error.value)
    handler.service.close()


def test_endpoint_files_go_only_when_asked(published):
    names = {file.name for file in plan_push(published, "org/model").files}
    more = {file.name for file in plan_push(published, "org/model", endpoint=True).files}
    assert more - names == {"handler.py", "requirements.txt"} and "handler.py" not in names


def test_requirements_name_this_version():
    for path in TEMPLATES.glob("*/requirements.txt"):
        assert path.read_text().strip().endswith(f"@v{otdrg_hf.__version__}")


def test_space(published, hub, capsys):
    run_push(published, "org/tiny-otdrg", space="org/page", private=True)
    assert hub.repositories["org/page"].private
    files = hub.repositories["org/page"].branches["main"]
    assert set(files) == {"README.md", "app.py", "requirements.txt"}
    assert capsys.readouterr().out.splitlines()[-1] == "https://huggingface.co/org/page/commit/1"
    run_push(published, "org/tiny-otdrg", space="org/page", private=True)  # again
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] in files and front["models"] == ["org/tiny-otdrg"]
    wanted = (TEMPLATES.parents[2] / "constraints.txt").read_text()
    assert f"gradio=={front['sdk_version']}" in re.findall(r"^gradio==\S+", wanted, re.MULTILINE)
    assert len(front["short_description"]) <= 60  # the Hub refuses longer ones


def test_space_that_must_not_be_written_to(published, hub):
    hub.add("org/public")
    hub.add("org/other", True, **{"game.py": b""})
    for space, fault in (("org/public", "public"), ("org/other", "something else"), ("org/a b", "not a name")):
        with pytest.raises(ValueError, match=fault):
            run_push(published, "org/tiny-otdrg", space=space, private=True)


def test_app_of_the_space_serves_the_model_to_pages_of_the_hub(published, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio")
    from starlette.testclient import TestClient

    (tmp_path / "space" / "org").mkdir(parents=True)
    (tmp_path / "space" / "org" / "tiny-otdrg").symlink_to(published)
    monkeypatch.chdir(tmp_path / "space")
    for name, content in space_files("org/tiny-otdrg").items():
        (tmp_path / "space" / name).write_bytes(content)
    policies = []

    def serve(app, listener):
        with TestClient(app, base_url="http://page.hf.space") as client:
            page = client.get("/")
        policies.append(page.headers["content-security-policy"])
        assert page.status_code == 200 and "not for clinical use" in page.text

    monkeypatch.setattr("otdrg_hf.app.server._serve", serve)
    monkeypatch.setattr("otdrg_hf.app.server._end_tidily", lambda: None)
    monkeypatch.setattr("otdrg_hf.app.server.listen", lambda host, port: _free(host, port))
    runpy.run_path("app.py", run_name="__main__")
    assert policies and "frame-ancestors https://huggingface.co" in policies[0]
    assert os.path.isfile("README.md")


def _free(host, port):
    from otdrg_hf.serving.listening import listen

    assert (host, port) == ("0.0.0.0", 7860)
    return listen("127.0.0.1", 0)
