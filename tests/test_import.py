"""Tests of `import otdrg_hf`: it stays light, and it makes OTDRG known to transformers."""

import json
import subprocess
import sys

import pytest

HEAVY = ("datasets", "trl", "peft", "evaluate", "pandas", "ot", "sklearn", "matplotlib", "gradio", "pydicom")
SCRIPT = f"""
import json, sys
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
before = set(sys.modules)
import otdrg_hf
loaded = set(sys.modules) - before
print(json.dumps([[name for name in {HEAVY} if name in sys.modules], sorted({{m.split(".")[0] for m in loaded}})]))
"""


def imported() -> tuple[list[str], list[str]]:
    process = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert not process.stderr, process.stderr
    return json.loads(process.stdout)


def test_import_is_light_and_silent():
    heavy, loaded = imported()
    assert heavy == []
    assert "otdrg_hf" in loaded and "otdrg_hf.training" not in loaded


def test_public_names_are_there():
    import otdrg_hf

    for name in otdrg_hf.__all__:
        assert getattr(otdrg_hf, name).__name__ == name
    assert otdrg_hf.OTDRGConfig.model_type == "otdrg"


LIGHT = """
import sys
{statement}
print([name for name in ("torch", "transformers", "otdrg_hf.modeling") if name in sys.modules])
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import otdrg_hf",
        "import otdrg_hf.labeling; otdrg_hf.labeling.label_reports(['Cardiomegaly.'])",
        "import otdrg_hf.metrics; otdrg_hf.metrics.evaluate_reports(['Clear lungs.'], ['Clear lungs.'])",
        "from typer.testing import CliRunner; from otdrg_hf.cli import app; CliRunner().invoke(app, ['--help'])",
    ],
    ids=["otdrg_hf", "labeling", "metrics", "help"],
)
def test_what_needs_no_model_imports_none(statement):
    process = subprocess.run([sys.executable, "-c", LIGHT.format(statement=statement)], capture_output=True, text=True)
    assert process.stdout == "[]\n", process.stdout + process.stderr


@pytest.mark.parametrize("order", [("otdrg_hf", "transformers"), ("transformers", "otdrg_hf")], ids=" then ".join)
def test_either_order_of_import_makes_the_model_known(order):
    use = "import transformers; print(transformers.AutoConfig.for_model('otdrg').model_type)"
    script = "; ".join([*(f"import {name}" for name in order), use])
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout == "otdrg\n", process.stderr
