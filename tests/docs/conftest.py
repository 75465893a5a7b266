"""A folder with all that the guides name, in place of downloads, the Hub and what earlier runs would have left."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM
from transformers.pipelines import PIPELINE_REGISTRY

from otdrg_hf.modeling.backbones_otdrg import square_image_processor
from tests.data.conftest import iu_report, write_tar
from tests.data.mimic_tree import write_mimic_tree
from tests.metrics.conftest import no_java  # noqa: F401
from tests.support.dicom_files import make_dicom
from tests.support.tiny_models import DECODER, make_films, make_text_config, make_tokenizer, make_vision_config

from .guide_blocks import ROOT

# The backbones that guides name; those of the recipes come on top.
VISION_MODELS, TEXT_MODELS = {"microsoft/rad-dino"}, {"Qwen/Qwen2.5-1.5B-Instruct"}

os.environ["CI"] = "true"  # TRL reports trainers to the Hub, except where this is set


@pytest.fixture
def workplace(tmp_path, monkeypatch, folder, no_java):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    _films()
    _models(folder, monkeypatch)
    _downloads()
    for name in ("training", "tests"):
        Path(name).symlink_to(ROOT / name)
    # A server would not end, and there is nothing to be fetched.
    monkeypatch.setattr("otdrg_hf.app.server._serve", lambda app, listener: None)
    monkeypatch.setattr("otdrg_hf.app.server._end_tidily", lambda: None)
    monkeypatch.setattr("otdrg_hf.modeling.image_loading.fetch", lambda *_: Path("chest.png").read_bytes())
    return tmp_path


def _films() -> None:
    first, second, third = (np.kron(film, np.ones((4, 4), np.uint8)) for film in make_films(3))
    Path("films/more").mkdir(parents=True)
    for name in ("chest.png", "pa.png", "lateral.png", "path/to/film.png", "films/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(first).save(name)
    Image.fromarray(second).save("films/more/b.png")
    for name in ("lateral.dcm", "film.dcm", "chest.dcm", "films/more/c.dcm"):
        Path(name).write_bytes(make_dicom(third, ViewPosition="LL"))
    Path("incoming").mkdir()
    uids = {f"{level}InstanceUID": f"1.2.826.0.1.3680043.8.498.{n}" for n, level in enumerate(("Study", "Series"), 2)}
    for name in ("radiograph.dcm", "incoming/1.dcm"):
        Path(name).write_bytes(make_dicom(third, **uids))
    _studies("my_studies", "data/mine")


def _studies(*folders: str) -> None:
    """What docs/extend.md shows as metadata.jsonl, with the films that it names."""
    from .guide_blocks import blocks_of

    lines = next(block.text for block in blocks_of("docs/extend.md") if block.language == "json")
    for folder in map(Path, folders):
        folder.mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(lines)
        for name in ("1_pa.png", "1_lateral.dcm", "2.png"):
            Image.open("chest.png").save(folder / name, "PNG")


def _models(folder, monkeypatch) -> None:
    """The Hub's models as tiny ones in folders of the same names, which `from_pretrained` takes."""
    short = Path(shutil.copytree(folder, "my_model")).resolve()
    generation = json.loads((short / "generation_config.json").read_text())
    (short / "generation_config.json").write_text(json.dumps({**generation, "max_new_tokens": 8}))
    Path("org").mkdir()
    Path("org/otdrg").symlink_to(short)
    torch.manual_seed(0)
    vision = make_vision_config("dinov2_registers", image_size=56, patch_size=14, num_hidden_layers=2)
    AutoModel.from_config(vision).save_pretrained("tiny_vision")
    square_image_processor(56).save_pretrained("tiny_vision")
    tokenizer = make_tokenizer()
    text = make_text_config("qwen2", len(tokenizer), **DECODER)
    AutoModelForCausalLM.from_config(text).save_pretrained("tiny_text")
    tokenizer.save_pretrained("tiny_text")
    recipes = [yaml.safe_load(path.read_text()) for path in (ROOT / "training" / "recipes").glob("*.yaml")]
    for tiny, field, names in (
        ("tiny_vision", "vision_model", VISION_MODELS),
        ("tiny_text", "text_model", TEXT_MODELS),
    ):
        for name in names | {recipe[field] for recipe in recipes if recipe.get(field)}:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).symlink_to(Path(tiny).resolve())
    # The bundled model takes longer, and has tests of its own.
    default = PIPELINE_REGISTRY.supported_tasks["radiology-report"]["default"]
    monkeypatch.setitem(default, "model", (str(short), "main"))
    for module in ("otdrg_hf.app.server", "otdrg_hf"):
        monkeypatch.setattr(f"{module}.DEMO_CHECKPOINT", short)


def _downloads() -> None:
    """IU X-Ray with R2Gen's annotation, and MIMIC-CXR, in their exact layouts; nothing in them is of a patient."""
    downloads = Path("downloads")
    downloads.mkdir()
    Path("DOWNLOADS").symlink_to("downloads")
    numbers = range(1, 11)
    picture = io.BytesIO()
    Image.open("chest.png").save(picture, "PNG")
    names = [f"CXR{number}_IM-{number:04d}-{series}.png" for number in numbers for series in (1001, 2001)]
    write_tar(downloads / "NLMCXR_reports.tgz", {f"ecgen-radiology/{n}.xml": iu_report(n) for n in numbers})
    write_tar(downloads / "NLMCXR_png.tgz", dict.fromkeys(names, picture.getvalue()))
    entries = [{"id": f"CXR{n}_IM-{n:04d}", "report": "the lungs are clear ."} for n in numbers]
    splits = {"train": entries[:6], "val": entries[6:8], "test": entries[8:]}
    Path("annotation.json").write_text(json.dumps(splits))
    write_mimic_tree(downloads, 40)
    with zipfile.ZipFile("mimic-cxr-reports.zip", "w") as archive:
        for path in downloads.glob("files/**/*.txt"):
            archive.write(path, path.relative_to(downloads))
            path.unlink()
