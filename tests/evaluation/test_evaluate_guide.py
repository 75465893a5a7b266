"""Every block of docs/evaluate.md runs as it stands."""

import json
import re
import shlex
import shutil
import sys

import pytest
import yaml
from trl import SFTConfig, TrlParser

from otdrg_hf import cli
from otdrg_hf.metrics.protocols import PROTOCOLS
from otdrg_hf.reporting.predictions import SECTIONS
from otdrg_hf.training.arguments import StudyArguments
from tests.docs.guide_blocks import ROOT, blocks_of

GUIDE = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
BLOCKS = blocks_of("docs/evaluate.md")


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in BLOCKS if block.language == "bash" for line in block.lines()]


@pytest.fixture
def workplace(tmp_path, monkeypatch, folder, data, chexbert, published_tokenizer, no_java):
    """A folder with all that the guide's commands name."""
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in blocks("json")[0].splitlines()]
    other = [{**row, "generated_text": row["reference"]} for row in rows]
    references = [{"id": row["id"], "reference": row["reference"]} for row in rows]
    for name, content in (("system_a", rows), ("system_b", other), ("references", references)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    reports = [{"id": row["id"], "report": row["reference"]} for row in rows]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": reports, "val": reports[:2], "test": reports}))
    (tmp_path / "published.csv").write_text("study_id,findings,impression\nCXR2,The lungs are clear.,Normal.\n")
    (tmp_path / "baselines").mkdir()
    for name in ("shuffled", "constant"):
        shutil.copy(tmp_path / "system_b.jsonl", tmp_path / "baselines" / f"{name}.jsonl")
    for name, source in (("outputs/iu_xray_finetune", folder), ("data/iu_xray", data)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(source)
    (tmp_path / "chexbert.pth").symlink_to(chexbert / "chexbert.pth")
    monkeypatch.setattr("otdrg_hf.DEMO_CHECKPOINT", folder)
    monkeypatch.setattr("otdrg_hf.metrics.radeval_adapter.radeval_is_available", lambda: True)
    monkeypatch.setattr("otdrg_hf.evaluation.compare.radeval_figures", lambda *_, **__: {"radeval_radgraph": 0.5})
    return tmp_path


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_runs(command, workplace, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*command, "--num_bootstrap", "20"])
    assert command[:2] == ["otdrg", "evaluate"]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    output = capsys.readouterr()
    assert not stop.value.code, output.err
    assert "ce14_micro_f1" in output.out
    for option in ("-o", "--csv", "--plot", "--html"):
        if option in command:
            assert (workplace / command[command.index(option) + 1]).stat().st_size
    if "--output_dir" in command:
        made = {path.name for path in (workplace / command[command.index("--output_dir") + 1]).iterdir()}
        assert (
            made
            == {"predictions.jsonl", "generation.json", "figures.json"}
            == set(re.findall(r"^- `(\S+\.\w+)`", GUIDE, re.M))
        )


def test_python_runs(workplace, offline_metrics, capsys):
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    assert capsys.readouterr().out
    assert (workplace / "both.json").is_file()


def test_the_recipe_is_read(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        blocks("yaml")[0] + "eval_strategy: epoch\nsave_strategy: epoch\nbf16: false\n"
    )
    parser = TrlParser((StudyArguments, SFTConfig))
    args, training = parser.parse_args_and_config(["--config", str(tmp_path / "recipe.yaml")])
    fields = yaml.safe_load(blocks("yaml")[0])
    assert args.generate_eval_studies == fields["generate_eval_studies"]
    assert training.metric_for_best_model == fields["metric_for_best_model"]


def test_it_names_what_there_is():
    assert set(re.findall(r"^\| `(raw|r2gen-\w+)` \|", GUIDE, re.M)) == set(PROTOCOLS)
    assert all(f"`{section}`" in GUIDE or f"--section {section}" in GUIDE for section in SECTIONS)
    assert {kind for kind, _ in BLOCKS} == {"json", "bash", "python", "yaml", "text"}
