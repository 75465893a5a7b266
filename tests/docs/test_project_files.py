"""The files that a newcomer to the project meets: citation, contributing guide, index of guides, workflow, hooks."""

import re
from pathlib import Path

import pytest
import yaml

import otdrg_hf

from .guide_blocks import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z][\w-]*)", text))


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    project = dict(re.findall(r'^(\w+) = "(.*)"$', read("pyproject.toml"), re.MULTILINE))
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["authors"]
    assert str(citation["version"]) == otdrg_hf.__version__ == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["Repository"]
    [paper] = citation["references"]
    assert "Optimal Transport-Driven Radiology Report Generation" in paper["title"] and "2507.03908" in paper["url"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhao", "Zhang", "Ma", "Xu", "Sun"]


def test_changelog_speaks_of_what_is_next():
    changelog = read("CHANGELOG.md")
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert headings[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.+)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_guide_is_in_the_index():
    linked = set(re.findall(r"\]\((\w+\.md)\)", read("docs/index.md")))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_calls_targets_of_the_makefile(path):
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    called = set()
    for job in jobs.values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for command in (step["run"] for step in job["steps"] if "run" in step):
            # A command stands for one of each value of the matrix that it names.
            [name] = re.findall(r"\$\{\{ matrix\.([\w-]+) \}\}", command) or [None]
            for value in matrix[name] if name else [""]:
                called |= make_targets(re.sub(r"\$\{\{.*?\}\}", value, command))
    assert {"test", "style", "types"} <= called
    for target in called:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_workflow_covers_the_python_versions_that_are_declared():
    declared = re.findall(r"Python :: (3\.\d+)", read("pyproject.toml"))
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    covered = {version for job in jobs for version in job["strategy"]["matrix"]["python-version"]}
    assert declared and covered == set(declared)
    assert f'requires-python = ">={declared[0]}"' in read("pyproject.toml")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_forbid_patient_data(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    first = form["body"][0]
    assert first["type"] == "markdown" and "patient data" in first["attributes"]["value"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked) and all(part["attributes"]["label"] for part in asked)


def test_hooks_format_and_check():
    hooks = [hook["id"] for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert hooks == ["ruff-check", "ruff-format"]


def test_contributing_names_what_exists():
    guide = read("CONTRIBUTING.md")
    for target in make_targets("\n".join(re.findall(r"`make [^`\n]+`|^make .*$", guide, re.MULTILINE))):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    for name in set(re.findall(r"\b((?:otdrg_hf|modeling|training|tests|docs)/[\w./]*\w)", guide)):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", guide):
        assert (ROOT / link).exists(), link


def test_package_says_that_it_is_typed():
    assert (Path(otdrg_hf.__file__).parent / "py.typed").is_file()
    assert '"otdrg_hf" = ["py.typed"]' in read("pyproject.toml")
