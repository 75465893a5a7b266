"""Every block of docs/serve.md that can run does, against a server on the bundled model."""

import shutil
import subprocess
import sys

import pytest
import yaml
from transformers import pipeline

pytest.importorskip("openai")

from otdrg_hf import cli  # noqa: E402
from otdrg_hf.data.phantom import make_phantom  # noqa: E402
from otdrg_hf.hub.model_card import write_model_card  # noqa: E402
from tests.docs.guide_blocks import blocks_of  # noqa: E402
from tests.hub.conftest import stage, write_stages  # noqa: E402
from tests.support.served_api import start_server  # noqa: E402

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def workplace(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    film = make_phantom(0, "test", 256).images[0].convert("L")
    for name in ("pa.png", "lateral.png"):
        film.save(name)
    pipeline("radiology-report", model=str(folder)).save_pretrained("my_model")
    write_stages(tmp_path / "my_model", stage())
    write_model_card(tmp_path / "my_model")
    monkeypatch.setattr("otdrg_hf.serving.command._serve", lambda application, listener: None)
    return tmp_path


def run_shell(line: str, address: str, monkeypatch) -> str:
    """Runs a command line; gives what a program other than `otdrg` printed."""
    if line.startswith("pip install"):
        return ""
    if line.startswith("otdrg"):
        more = ["--port", "0"] if line.startswith("otdrg serve") else []
        monkeypatch.setattr(sys, "argv", [*line.split(), *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, line
        return ""
    program = line.split()[0]
    assert program in ("curl", "openssl", "chmod"), line
    if not shutil.which(program):
        return ""
    done = subprocess.run(line.replace(ADDRESS, address), shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert program != "curl" or '"generated_text"' in done.stdout, done.stdout
    return done.stdout


def test_every_block_runs(workplace, monkeypatch, capsys):
    """And prints what the guide shows: behind a block of Python, and behind a `$`."""
    server, names, printed, of_python = start_server(), {}, {}, False
    try:
        for block in blocks_of("docs/serve.md"):
            if block.language == "bash":
                printed |= {line: run_shell(line, server.address, monkeypatch) for line in block.lines()}
            elif block.language == "python":
                capsys.readouterr()
                exec(compile(block.text.replace(ADDRESS, server.address), "docs/serve.md", "exec"), names)
            elif of_python:
                assert block.shows(capsys.readouterr().out), block.text
            elif block.text.startswith("$ "):
                command, shown = block.text.removeprefix("$ ").split("\n", 1)
                assert not shutil.which("curl") or block._replace(text=shown).shows(printed[command]), printed[command]
            elif block.language == "yaml":
                assert yaml.safe_load(block.text)["kind"] in ("Deployment", "Service")
            else:
                assert block.language == "text"
            of_python = block.language == "python"
    finally:
        server.stop()
    assert names["answer"].otdrg["findings"] and printed


def test_kubernetes_runs_a_command_that_there_is():
    from typer.testing import CliRunner

    [deployment] = [block for block in blocks_of("docs/serve.md") if "kind: Deployment" in block.text]
    arguments = yaml.safe_load(deployment.text)["spec"]["template"]["spec"]["containers"][0]["args"]
    said = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["serve", "--help"]).output
    assert arguments[:2] == ["otdrg", "serve"] and all(each in said for each in arguments if each.startswith("--"))
