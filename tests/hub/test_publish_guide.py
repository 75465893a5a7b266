"""Every code block of docs/publish.md, run in order on a tiny model, with a Hub that is made up."""

import re
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from PIL import Image

from otdrg_hf.hub.model_card import write_model_card
from tests.docs.command_lines import run_line
from tests.docs.guide_blocks import blocks_of
from tests.hub.conftest import prepared, stage, write_stages
from tests.metrics.conftest import no_java  # noqa: F401
from tests.support.tiny_models import make_films
from tests.training.tiny_training import tiny_model

GUIDE = "docs/publish.md"
# What the guide does on many studies is shown here on few.
SMALLER = {"--num_studies 200": "--num_studies 3", "train=16000": "train=20"}


@pytest.fixture
def place(tmp_path, monkeypatch, hub, no_java):  # noqa: F811
    """The folders that the guide speaks of, and a Hub."""
    model, processor = tiny_model()
    for folder in ("my_model", "my_adapter/base"):
        model.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
        write_stages(tmp_path / folder, stage())
    write_model_card(tmp_path / "my_model")
    write_stages(tmp_path / "my_adapter", stage("iu_xray"))
    targets = [name for name, _ in model.named_modules() if re.search(r"language_model.*q_proj$", name)]
    get_peft_model(model, LoraConfig(target_modules=targets)).save_pretrained(tmp_path / "my_adapter")
    processor.save_pretrained(tmp_path / "my_adapter")
    (tmp_path / "data").mkdir()
    prepared(tmp_path / "data" / "iu_xray", "iu_xray")
    Image.fromarray(make_films(1)[0]).save(tmp_path / "chest.png")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return hub


def test_the_guide_runs_as_it_stands(place, monkeypatch, capsys):
    for block in blocks_of(GUIDE):
        if block.language == "bash":
            for line in block.lines():
                for long, short in SMALLER.items():
                    line = line.replace(long, short)
                run_line(line, monkeypatch)
        else:
            assert block.language == "python"
            for name, content in place.repositories["org/my_model"].branches["main"].items():
                path = Path("org/my_model", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            exec(block.text, {})
    assert place.repositories["org/my_model"].private
    card = Path("my_model/README.md").read_text()
    assert "On synthetic chest phantoms, split `test`: 3 reports" in card and "Intervals: 95 %" in card
    assert 'model="org/my_model"' in card
    assert "Demner-Fushman" in Path("data/iu_xray/README.md").read_text()
    assert "| train | 20 |" in Path("phantoms.md").read_text()
    assert list(place.repositories) == ["org/my_model"]  # the others were dry runs
    assert "my_merged_model, revision main, private" in capsys.readouterr().out


def test_the_guide_has_the_blocks_that_are_run():
    assert [block.language for block in blocks_of(GUIDE)] == ["bash"] * 4 + ["python"] + ["bash"] * 2
