"""Every code block of README.md and of the guides runs as it stands, in order, on stand-ins (see conftest.py)."""

import json
import re
from pathlib import Path

import pytest
import yaml

from .command_lines import NOT_RUN, reason_not_to_run, run_line
from .guide_blocks import GUIDES, ROOT, blocks_of

# These need more than a folder: they have tests of their own that run every block.
ELSEWHERE = {
    "docs/evaluate.md": "tests/evaluation/test_evaluate_guide.py",
    "docs/serve.md": "tests/serving/test_serve_guide.py",
    "docs/publish.md": "tests/hub/test_publish_guide.py",
    "docs/transformers.md": "tests/docs/test_transformers_guide.py",
}
SHELL = ("bash", "sh", "shell", "console")
ALL_LINES = [
    line for guide in GUIDES for block in blocks_of(guide) if block.language in SHELL for line in block.lines()
]


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if guide not in ELSEWHERE])
def test_every_block_runs(guide, workplace, monkeypatch, capsys):
    names: dict = {}
    for block in blocks_of(guide):
        if block.language in SHELL:
            for line in block.lines():
                if not reason_not_to_run(line):
                    run_line(line, monkeypatch)
        elif block.language == "python":
            exec(compile(block.text, guide, "exec"), names)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)
            Path("mine.yaml").write_text(block.text)  # what the next block reads
        elif block.language == "json":
            assert [json.loads(line) for line in block.text.splitlines()]
        else:
            assert block.language in ("", "text"), f"the tests do not know how to run a block of {block.language}"
    assert str(workplace) not in capsys.readouterr().out


def test_guides_that_are_run_elsewhere():
    for guide, test in ELSEWHERE.items():
        assert guide in GUIDES and Path(guide).name in (ROOT / test).read_text(encoding="utf-8")


def test_nothing_is_left_out_without_need():
    left_out = {reason_not_to_run(line) for line in ALL_LINES} - {None}
    assert left_out and left_out <= set(NOT_RUN.values())
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in ALL_LINES:
        for target in re.findall(r"^make ([\w-]+)", line):
            assert f"\n{target}:" in makefile, line


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / guide).parent / target).exists(), target


@pytest.mark.parametrize("guide", GUIDES)
def test_files_of_the_repository_that_are_named_exist(guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:otdrg_hf|modeling|training|tests|docs|hub_cards)/[\w./]+\.\w+)`", text)):
        assert (ROOT / name).exists(), name
