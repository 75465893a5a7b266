"""Tests of a saved folder where otdrg_hf is not installed: `trust_remote_code=True` writes the same report."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline
from transformers.dynamic_module_utils import get_imports

import otdrg_hf.modeling
from tests.support.other_environment import run_without_package
from tests.support.tiny_models import make_films

WRITE = """
import json, sys
import numpy as np
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline
folder, film = sys.argv[1:]
trust = {"trust_remote_code": True}
report = pipeline("radiology-report", model=folder, **trust)
answer = report(np.load(film), max_new_tokens=8)
autos = AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
loaded = [auto.from_pretrained(folder, **trust) for auto in autos]
report.save_pretrained(folder + "-again")
for auto in (AutoModel, AutoModelForImageTextToText):
    auto.from_pretrained(folder, **trust).save_pretrained(folder + "-" + auto.__name__)
    loaded[-1].save_pretrained(folder + "-" + auto.__name__)
    again = folder + "-" + auto.__name__
    loaded += [each.from_pretrained(again, **trust) for each in autos]
    answers = [answer, pipeline("radiology-report", model=again, **trust)(np.load(film), max_new_tokens=8)]
    assert answers[0] == answers[1], auto
print(json.dumps([answer, [type(each).__name__ for each in loaded], type(report).__module__.split(".")[0]]))
"""


# A folder may be called anything, and transformers makes a module's name of it.
NAME = "ein modell (ü) +1"


def test_remote_code_asks_for_no_more_than_torch_and_pillow():
    """Of the packages that transformers looks for before it runs the code; pydicom and imagecodecs are optional."""
    allowed = {"torch", "transformers", "PIL", "numpy", "safetensors", "huggingface_hub", *sys.stdlib_module_names}
    for path in sorted(Path(otdrg_hf.modeling.__file__).parent.glob("*.py")):
        assert set(get_imports(path)) <= allowed, path.name


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    """A saved pipeline, what it writes here, and what it writes in an interpreter without otdrg_hf."""
    path = tmp_path_factory.mktemp("remote")
    report = pipeline("radiology-report", model=str(folder))
    report.save_pretrained(path / NAME)
    film = make_films(1)[0]
    np.save(path / "film.npy", film)
    answers = run_without_package(WRITE, path / NAME, path / "film.npy", folder=path, HF_HUB_OFFLINE="1")
    return path, report(film, max_new_tokens=8), answers


def test_remote_code_writes_the_same(written):
    _, expected, (answer, classes, package) = written
    assert answer == expected
    assert classes == ["OTDRGConfig", *["OTDRGForConditionalGeneration"] * 2, "OTDRGProcessor"] * 3
    assert package == "transformers_modules"


def test_saved_by_remote_code_it_loads_here(written):
    path, expected, _ = written
    report = pipeline("radiology-report", model=str(path / f"{NAME}-again"))
    assert type(report).__module__ == "otdrg_hf.modeling.pipeline_otdrg"
    assert report(make_films(1)[0], max_new_tokens=8) == expected


def test_folder_holds_all_the_code_and_configuration_without_local_paths(written):
    path, _, _ = written
    for folder in (path / NAME, path / f"{NAME}-again"):
        config = json.loads((folder / "config.json").read_text())
        assert config["custom_pipelines"]["radiology-report"]["impl"] == "pipeline_otdrg.RadiologyReportPipeline"
        for reference in config["auto_map"].values():
            assert (folder / f"{reference.split('.')[0]}.py").is_file()
        assert not [file for file in folder.iterdir() if str(path).encode() in file.read_bytes()]


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForImageTextToText"])
def test_saved_again_it_has_all_entries_whatever_it_was_loaded_by(written, auto):
    path, _, _ = written
    config = json.loads((path / f"{NAME}-{auto}" / "config.json").read_text())
    assert config["auto_map"] == json.loads((path / NAME / "config.json").read_text())["auto_map"]
    assert {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"} <= set(config["auto_map"])
    assert "custom_pipelines" in config


def test_local_configuration_does_not_ask_for_trust(folder):
    assert "custom_pipelines" in json.loads((folder / "config.json").read_text())
    report = pipeline("radiology-report", model=str(folder))
    assert not hasattr(report.model.config, "custom_pipelines")
