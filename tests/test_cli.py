"""The `otdrg` command: what it prints, and one clear line for what a user got wrong."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from PIL import Image

from otdrg_hf import DEMO_CHECKPOINT, cli
from tests.support.tiny_models import make_films

pytestmark = pytest.mark.skipif(not DEMO_CHECKPOINT.exists(), reason="the demo checkpoint is not bundled yet")


def in_a_process(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "otdrg_hf", *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_names_every_command(tmp_path):
    result = in_a_process("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("report", "demo", "label", "prepare", "evaluate", "train", "card", "merge", "push", "app"):
        assert command in result.stdout


# What is imported besides the package itself, whose own imports are the business of test_import.py.
IMPORTED = """
import sys, types
package = types.ModuleType("otdrg_hf")
package.__path__ = [{path!r}]
sys.modules["otdrg_hf"] = package
{statement}
print(*sorted({{name.split(".")[0] for name in sys.modules}} & set({heavy!r})), file=sys.stderr)
"""
HELP = "sys.argv = ['otdrg', '--help']; from otdrg_hf.cli import main\ntry: main()\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "statement",
    [HELP, *(f"import otdrg_hf.{name}" for name in ("labeling", "metrics", "evaluation.command", "reporting"))],
    ids=["otdrg --help", "labeling", "metrics", "evaluation", "reporting"],
)
def test_no_model_is_imported_without_need(statement):
    heavy = ("torch", "transformers", "datasets", "matplotlib", "pandas", "accelerate")
    code = IMPORTED.format(path=str(DEMO_CHECKPOINT.parents[1]), statement=statement, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


def test_json_is_always_a_flag_and_output_always_a_path():
    kinds = {"--json": bool, "--output": Path | None, "-o": Path | None}
    seen = Counter()
    for command in cli.app.registered_commands:
        for hint in get_type_hints(command.callback, include_extras=True).values():
            kind, option = (*get_args(hint), None, None)[:2]
            # In Annotated, typer keeps the first name where a default would be.
            for name in (getattr(option, "default", None), *(getattr(option, "param_decls", None) or ())):
                assert kinds.get(name, kind) == kind, (command.callback.__name__, name)
                seen[name] += 1
    assert seen["--json"] == 7 and seen["--output"] == seen["-o"] == 3


def test_report_goes_on_after_a_bad_file_and_says_so(otdrg, tmp_path):
    Image.fromarray(make_films(1)[0]).save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    code, out, _ = otdrg("report", "empty.png", "good.png", "--json", "--max_new_tokens", "8")
    bad, good = map(json.loads, out.splitlines())
    assert code == 1
    assert "empty.png" in bad["error"] and "empty" in bad["error"]
    assert good["image"] == "good.png" and len(good["findings"]) == 14
    assert str(tmp_path) not in out


def test_label_reads_lines_and_explains(otdrg, tmp_path):
    (tmp_path / "reports.txt").write_text("Large left pleural effusion.\nNo pneumothorax.\n")
    first, second = map(json.loads, otdrg("label", "reports.txt", "--explain")[1].splitlines())
    assert first["labels"]["Pleural Effusion"] == "positive"
    assert first["evidence"][0]["text"] in "Large left pleural effusion."
    assert second["labels"]["Pneumothorax"] == "negative"


def test_a_broken_line_is_named(otdrg, tmp_path):
    (tmp_path / "reports.jsonl").write_text('{"report": "Clear."}\n{"report":\n')
    code, _, err = otdrg("label", "reports.jsonl")
    assert code == 2
    assert err.strip() == "error: reports.jsonl line 2: not JSON (Expecting value at column 11)"


def test_the_demo_writes_pictures_and_a_record(otdrg, tmp_path):
    Image.fromarray(make_films(1)[0]).save(tmp_path / "film.png")
    code, out, err = otdrg("demo", "film.png", "--num_studies", "0", "--output_dir", "out")
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert len(record["studies"]) == 4
    assert all((tmp_path / "out" / study["picture"]).stat().st_size > 0 for study in record["studies"])
    assert "not for clinical use" in out


def check_is_one_line(code: int, err: str):
    assert code == 2
    # bitsandbytes, where it is installed, has a line of its own when it is imported.
    lines = [line for line in err.splitlines() if "kernels-community" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert "bf16" not in err  # as TRL would have it where there is no GPU


@pytest.mark.parametrize("arguments", [[], ["--config", "absent.yaml"]])
def test_train_says_what_is_wrong_in_one_line_without_a_traceback(otdrg, arguments):
    code, _, err = otdrg("train", *arguments)
    check_is_one_line(code, err)


def test_nothing_that_is_imported_adds_a_line(tmp_path):
    result = in_a_process("train", "--no_such_field", "1", cwd=tmp_path)
    check_is_one_line(result.returncode, result.stderr)
