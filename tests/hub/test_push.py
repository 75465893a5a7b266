"""`otdrg push`: what goes and what does not, what is refused, and what becomes of the Hub's answers."""

import json
import shutil

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HTTPError, OfflineModeIsEnabled
from transformers import pipeline

from otdrg_hf.hub.model_card import write_model_card
from otdrg_hf.hub.push import plan_push, push_model
from tests.hub.conftest import stage, write_stages
from tests.hub.fake_hub import hub_error

CODE = {
    "configuration_otdrg.py",
    "modeling_otdrg.py",
    "processing_otdrg.py",
    "pipeline_otdrg.py",
    "optimal_transport.py",
    "image_loading.py",
}
MODEL = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_record.json",
}


def names(plan) -> set[str]:
    return {file.name for file in plan.files}


def test_the_files_of_results_go_with_the_card(published, figures, hub):
    write_model_card(published, figures, repo_id="org/model")
    assert ".eval_results/otdrg_evaluate.yaml" in names(plan_push(published, "org/model"))


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_list_is_the_model_its_processor_code_and_card(published):
    plan = plan_push(published, "org/model")
    assert MODEL | CODE <= names(plan)
    assert names(plan) - MODEL == {path.name for path in published.glob("*.py")}
    assert all(file.size == (published / file.name).stat().st_size for file in plan.files)
    assert plan.size == sum(file.size for file in plan.files)
    assert "public" in plan.text() and f"{plan.size:,}  bytes in {len(plan.files)} files" in plan.text()
    assert str(published) not in plan.text() + json.dumps(plan.to_dict())


def test_checkpoints_logs_data_and_strangers_stay(published):
    listed = names(plan_push(published, "org/model"))
    for name in ("checkpoint-4", "data", "runs", ".cache"):
        (published / name).mkdir()
        (published / name / "model.safetensors").write_bytes(b"0")
    for name in (
        "training_log.json",
        "trainer_state.json",
        "summary.json",
        "rejected.jsonl",
        "my_token.py",
        "film.png",
    ):
        (published / name).write_text("secret")
    (published / "events.out.tfevents.1").write_bytes(b"0")
    (published / "train-00000-of-00001.parquet").write_bytes(b"0")
    assert names(plan_push(published, "org/model")) == listed


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "rng_state.pth", "x.pkl", "pytorch_model.BIN"])
def test_pickles_are_refused(published, name):
    (published / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="holds pickles") as error:
        plan_push(published, "org/model")
    assert name in one_line(error)


def test_sharded_weights_go_whole_or_not_at_all(published):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (published / "model.safetensors").rename(published / shards[0])
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"lacks the weights {shards[1]}"):
        plan_push(published, "org/model")
    shutil.copy(published / shards[0], published / shards[1])
    (published / "model-00001-of-00003.safetensors").write_bytes(b"of an earlier save")
    listed = names(plan_push(published, "org/model"))
    assert {*shards, "model.safetensors.index.json"} <= listed and "model-00001-of-00003.safetensors" not in listed
    (published / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    with pytest.raises(ValueError, match="lacks the weights"):
        plan_push(published, "org/model")


@pytest.mark.parametrize(
    "name, words",
    [
        ("model.safetensors", "no weights in safetensors"),
        ("config.json", "no config.json"),
        ("README.md", "lacks README.md: run `otdrg card`"),
        ("processor_config.json", "lacks processor_config.json: save it whole"),
        ("pipeline_otdrg.py", "lacks code that it needs, pipeline_otdrg.py"),
        ("optimal_transport.py", "lacks code that it needs, optimal_transport.py"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(published, name, words):
    (published / name).unlink()
    with pytest.raises(ValueError, match=words) as error:
        plan_push(published, "org/model")
    one_line(error)


def test_drafts_adapters_and_models_without_code_are_refused(published, tmp_path):
    card = (published / "README.md").read_text()
    (published / "README.md").write_text("---\ntags:\n- generated_from_trainer\n---\n# Draft\n")
    with pytest.raises(ValueError, match="draft of the trainer"):
        plan_push(published, "org/model")
    (published / "README.md").write_text(card)
    config = json.loads((published / "config.json").read_text())
    bare = {key: value for key, value in config.items() if key not in ("auto_map", "custom_pipelines")}
    (published / "config.json").write_text(json.dumps(bare))
    with pytest.raises(ValueError, match="does not carry its code"):
        plan_push(published, "org/model")
    (published / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="LoRA adapter.*otdrg merge"):
        plan_push(published, "org/model")
    with pytest.raises(ValueError, match="There is no folder nowhere"):
        plan_push(tmp_path / "nowhere", "org/model")


@pytest.mark.parametrize("path", ["/home/jane/mimic/model", "C:\\Users\\jane", "~/mimic", "file:///data/x"])
def test_paths_of_this_machine_are_refused(published, path):
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | {"vision_config": {"name_or_path": path}}))
    with pytest.raises(ValueError, match="config.json names a path of this machine under 'name_or_path'") as error:
        plan_push(published, "org/model")
    assert path not in one_line(error)
    (published / "config.json").write_text(json.dumps(config))
    with (published / "README.md").open("a") as card:
        card.write(f"\nTrained in {published}.\n")
    with pytest.raises(ValueError, match="README.md names a folder of this machine"):
        plan_push(published, "org/model")


def test_models_of_credentialed_data_are_refused_in_public(published):
    # Aligned on MIMIC-CXR and tuned on phantoms it has seen the data all the same.
    write_stages(published, stage("mimic_cxr", stage="align"), stage("phantom", stage="finetune"))
    for data_may_be_public in (False, True):
        with pytest.raises(ValueError, match="learned from MIMIC-CXR.*PhysioNet.*--private") as error:
            plan_push(published, "org/model", data_may_be_public=data_may_be_public)
        one_line(error)
    plan = plan_push(published, "org/model", private=True)
    assert plan.credentialed and "private" in plan.text() and "signed" in plan.text()


def test_a_model_that_was_saved_anew_is_known_by_its_configuration(published, tmp_path):
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | {"training_data": ["mimic_cxr", "phantom"]}))
    again = tmp_path / "again"
    pipeline("radiology-report", model=str(published)).save_pretrained(again)
    assert not (again / "training_record.json").exists()
    write_model_card(again)
    assert "through PhysioNet" in (again / "README.md").read_text()
    for folder in (published, again):
        with pytest.raises(ValueError, match="learned from MIMIC-CXR"):
            plan_push(folder, "org/model")


@pytest.mark.parametrize("recorded", [True, False])
def test_models_of_unknown_data_need_a_word(published, recorded):
    write_stages(published, stage("phantom"), stage("folder"))
    if not recorded:
        (published / "training_record.json").unlink()
    with pytest.raises(ValueError, match="--private.*--data_may_be_public"):
        plan_push(published, "org/model")
    assert not plan_push(published, "org/model", data_may_be_public=True).private
    assert plan_push(published, "org/model", private=True).private


@pytest.mark.parametrize("source, words", [("mimic_cxr", "not even in private"), ("iu_xray", "uploads models only")])
def test_datasets_are_refused_always(tmp_path, source, words):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").write_bytes(b"0")
    (tmp_path / "set" / "summary.json").write_text(json.dumps({"source": source}))
    for private in (False, True):
        with pytest.raises(ValueError, match=words) as error:
            plan_push(tmp_path / "set", "org/data", private=private)
        one_line(error)


@pytest.mark.parametrize("name", ["", "a/b/c", "org/", "org/mo del", "-org/model", "org/model.git", "org/a--b"])
def test_names_that_the_hub_would_not_take_are_refused(published, name):
    with pytest.raises(ValueError, match="not a name of a repository"):
        plan_push(published, name)


def test_a_push_uploads_exactly_the_list(published, hub):
    plan = plan_push(published, "org/model", private=True)
    assert push_model(plan, "First") == "https://huggingface.co/org/model/commit/1"
    files = hub.repositories["org/model"].branches["main"]
    assert files == {file.name: file.path.read_bytes() for file in plan.files}
    assert hub.repositories["org/model"].private and hub.messages == ["First"]
    assert hub.calls == ["model_info", "create_repo", "create_commit"]


def test_a_second_push_replaces_the_weights_and_keeps_the_rest(published, hub):
    push_model(plan_push(published, "org/model"))
    main = hub.repositories["org/model"].branches["main"]
    old = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    main |= dict.fromkeys([*old, "figure.png", ".gitattributes"], b"old")
    main["README.md"] = b"old"
    push_model(plan_push(published, "org/model"))
    assert set(main) == {file.name for file in plan_push(published, "org/model").files} | {
        "figure.png",
        ".gitattributes",
    }
    assert main["README.md"] == (published / "README.md").read_bytes()


def test_a_revision_is_a_branch_and_leaves_main(published, hub):
    hub.add("org/model", **{"README.md": b"main"})
    push_model(plan_push(published, "org/model", revision="v2"))
    branches = hub.repositories["org/model"].branches
    assert branches["main"] == {"README.md": b"main"}
    assert set(branches["v2"]) == names(plan_push(published, "org/model"))


def test_repositories_of_something_else_are_left_alone(published, hub):
    hub.add("org/model", **{"config.json": b"{}", "pytorch_model.bin": b"0", "a.txt": b"", "b.txt": b""})
    with pytest.raises(
        ValueError, match="holds something else .a.txt, b.txt, config.json, ....: choose another"
    ) as error:
        push_model(plan_push(published, "org/model"))
    one_line(error)
    assert "create_commit" not in hub.calls


def test_private_is_not_promised_for_a_public_repository(published, hub):
    write_stages(published, stage("mimic_cxr"))
    hub.add("org/model")
    with pytest.raises(ValueError, match="there already and public, which --private does not change"):
        push_model(plan_push(published, "org/model", private=True))
    assert hub.calls == ["model_info"]


@pytest.mark.parametrize(
    "method, error, words",
    [
        ("model_info", HTTPError("[Errno -2] Name or service not known"), "The Hub cannot be reached"),
        ("create_commit", HTTPError("timed out"), "no file is there by halves"),
        ("model_info", OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        ("model_info", hub_error(status=401, words="Invalid token"), "The token may not write to org/model"),
        ("model_info", hub_error(GatedRepoError, 403, "Ask for access"), "The token may not write to org/model"),
        ("create_repo", hub_error(status=403, words="No rights in org"), "may not write.*No rights in org"),
        ("create_commit", hub_error(status=500), r"refused the push to org/model \(status 500\)"),
    ],
)
def test_what_the_hub_says_is_one_line(published, hub, method, error, words):
    hub.failing[method] = error
    with pytest.raises(OSError, match=words) as raised:
        push_model(plan_push(published, "org/model"))
    one_line(raised)


def test_without_a_token_nothing_is_asked(published, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(OSError, match="no token for the Hub: run `hf auth login`"):
        push_model(plan_push(published, "org/model"))
    assert not hub.calls
