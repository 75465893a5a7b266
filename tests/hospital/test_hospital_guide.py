"""Every block of docs/hospital.md that needs no PACS runs, on the bundled model."""

import json
import shutil
import subprocess

import pydicom
import pytest

from otdrg_hf.hospital import RESEARCH_USE
from tests.docs.guide_blocks import blocks_of

from .conftest import radiograph

pytest.importorskip("highdicom", reason="needs otdrg-hf[hospital]")
pytest.importorskip("fhir.resources", reason="needs otdrg-hf[hospital]")
pytest.importorskip("matplotlib")


def run_shell(line: str, otdrg, folder) -> None:
    program, *arguments = line.split()
    if program == "otdrg" and "--dicomweb" not in arguments:  # that is in test_dicomweb.py
        code, _, complained = otdrg(*arguments, *(["--once"] if arguments[0] == "watch" else []))
        assert code == 0, complained
    elif program == "dsrdump" and shutil.which(program):
        done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=True)
        assert "UNVERIFIED" in done.stdout and RESEARCH_USE in done.stdout
    else:
        assert program in ("otdrg", "dsrdump", "pip"), line


def test_every_block_runs(otdrg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "incoming").mkdir()
    (tmp_path / "radiograph.dcm").write_bytes(radiograph())
    (tmp_path / "incoming" / "new.dcm").write_bytes(radiograph(1))
    for block in blocks_of("docs/hospital.md"):
        if block.language == "bash":
            for line in block.lines():
                run_shell(line, otdrg, tmp_path)
        elif block.language == "python":
            exec(compile(block.text, "docs/hospital.md", "exec"), {})
        else:
            assert block.language == "text"
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "preliminary"
    assert pydicom.dcmread(tmp_path / "evidence.dcm").Modality == "OT"
    assert len(list((tmp_path / "reports").glob("*.dcm"))) == 1
