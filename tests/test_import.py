"""Tests of `import otdrg_hf`: it stays light, and it makes OTDRG known to transformers."""

import json
import subprocess
import sys

HEAVY = ("datasets", "trl", "peft", "evaluate", "pandas", "ot", "sklearn", "matplotlib", "gradio", "pydicom")
SCRIPT = f"""
import json, sys
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
before = set(sys.modules)
import otdrg_hf
loaded = set(sys.modules) - before
import otdrg_hf.modeling.modeling_otdrg
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
