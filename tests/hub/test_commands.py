"""`otdrg card`, `otdrg merge` and `otdrg push` as commands: what they print, and one line for what a user got wrong."""

import json

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, metadata_load

from tests.hub.conftest import stage, write_stages


def test_card_then_a_dry_run(otdrg, published, evaluation_file):
    arguments = ["--evaluation", evaluation_file, "--evaluated_on", "phantom", "--repo_id", "org/tiny"]
    code, out, _ = otdrg("card", published, *arguments)
    assert (code, out) == (0, f"wrote {published / 'README.md'}\n")
    card = ModelCard.load(published / "README.md")
    assert card.data.eval_results and 'model="org/tiny"' in card.text
    code, out, _ = otdrg("push", published, "org/tiny", "--dry_run", "--revision", "v2")
    assert code == 0
    *files, total, end = out.splitlines()
    assert {line.split()[1] for line in files} >= {"README.md", "model.safetensors", "pipeline_otdrg.py"}
    assert "org/tiny, revision v2, public" in total and end == "dry run: nothing was uploaded"


def test_card_of_phantoms(otdrg, tmp_path):
    output = tmp_path / "README.md"
    studies = ["--studies", "train=3", "--studies", "test=2"]
    assert otdrg("card", "phantom", *studies, "--output", output)[0] == 0
    assert "| all | 5 |" in output.read_text() and metadata_load(output)["license"] == "apache-2.0"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["card", "nowhere"], "There is no folder nowhere"),
        (["card", "empty"], "has no summary.json"),
        (["card", "phantom"], "give --output"),
        (["card", "phantom", "--output", "c.md", "--studies", "train"], "give SPLIT=NUMBER"),
        (["card", "phantom", "--output", "c.md", "--license", "mit"], "--license does not belong"),
        (["card", "phantom", "--output", "absent/c.md", "--studies", "train=1"], "folder for c.md does not exist"),
        (["card", "empty", "--evaluation", "e.json"], "--evaluation does not belong"),
        (["card", "tiny-otdrg", "--studies", "train=1"], "--studies does not belong"),
        (["card", "tiny-otdrg", "--evaluation", "e.json"], "There is no evaluation e.json"),
        (["card", "tiny-otdrg", "--evaluated_on", "phantom"], "about an --evaluation"),
        (["merge", "nowhere", "whole"], "nowhere is not an adapter"),
        (["merge", "tiny-otdrg", "whole"], "tiny-otdrg is not an adapter"),
        (["push", "nowhere", "org/model", "--dry_run"], "There is no folder nowhere"),
        (["push", "empty", "org/model", "--dry_run"], "no config.json"),
        (["push", "tiny-otdrg", "org/mo del", "--dry_run"], "not a name of a repository"),
        (["push", "mimic", "org/model", "--dry_run"], "PhysioNet"),
        (["push", "tiny-otdrg", "org/model"], "no token for the Hub"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, words, published, tmp_path, otdrg, monkeypatch):
    (tmp_path / "empty").mkdir()
    published.parent.joinpath("mimic").symlink_to(published)
    if "mimic" in arguments:
        write_stages(published, stage("mimic_cxr"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = otdrg(*arguments)
    assert code == 2 and err.startswith("error: ") and words in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert str(tmp_path) not in err


def test_a_hub_that_is_not_there_is_one_line(otdrg, published, monkeypatch):
    nowhere = huggingface_hub.HfApi("http://127.0.0.1:9", token="hf_of_the_test")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: nowhere)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_the_test")
    code, out, err = otdrg("push", published, "org/model")
    assert code == 2
    assert err.startswith("error: The Hub cannot be reached") and err.count("\n") == 1
    assert "hf_of_the_test" not in out + err


def test_the_templates_are_in_the_package():
    from importlib import resources

    names = {path.name for path in resources.files("otdrg_hf.hub_cards").iterdir()}
    assert {"model_card.md", "dataset_card.md"} <= names


def test_card_output_is_json_safe(otdrg, published):
    code, out, _ = otdrg("push", published, "org/tiny", "--dry_run", "--json", "--private")
    plan = json.loads(out)
    assert code == 0 and plan["private"] and plan["repo_id"] == "org/tiny"
    assert str(published) not in out
