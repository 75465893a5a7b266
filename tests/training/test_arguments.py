"""The command line: JSON fields, unknown fields, model sources and recipes."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from tiny_runs import train, write_recipe
from tiny_training import LLAMA, OTDRG, SENTENCES, VIT, tiny_model, tiny_rows, write_study_folder
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.training.adapters import adapter_config
from otdrg_hf.training.arguments import RecipeParser, StudyArguments, fit_recipe
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.model_setup import load_model_and_processor
from otdrg_hf.training.options import check_options

TRAINING = Path(__file__).parents[2] / "training"
# Those of ablations are read by training/ablate.py and tested with it.
RECIPES = sorted(set((TRAINING / "recipes").glob("*.yaml")) - set((TRAINING / "recipes").glob("ablation_*.yaml")))


NOTHING = {"vision_config": None, "text_config": None, "otdrg_config": None}


def parse(*arguments: str):
    return RecipeParser().parse_args_and_config(list(arguments))


def test_json_fields_on_the_command_line():
    args, *_ = parse("--otdrg_config", '{"epsilon": 0.1}', "--load_kwargs", '{"data_dir": "data"}', "--bf16", "false")
    assert args.otdrg_config == {"epsilon": 0.1}
    assert args.load_kwargs == {"data_dir": "data"}


@pytest.mark.parametrize("value", ["{epsilon: 0.1", "[1]", "3", "yes"])
def test_json_that_is_no_object_is_named(value):
    with pytest.raises(ValueError, match="--otdrg_config must be"):
        parse("--otdrg_config", value, "--bf16", "false")


def test_unknown_fields_raise_with_their_name(tmp_path):
    with pytest.raises(ValueError, match="no_such_field"):
        parse("--no_such_field", "1", "--bf16", "false")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("no_such_field: 1\nbf16: false\n")
    with pytest.raises(ValueError, match="no_such_field"):
        parse("--config", str(recipe))


def test_the_command_line_wins_over_the_file(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("stage: align\ntrain_studies: 5\nbf16: false\n")
    args, *_ = parse("--config", str(recipe), "--stage", "finetune")
    assert (args.stage, args.train_studies) == ("finetune", 5)


def test_another_dataset_comes_without_the_options_of_the_recipes_own(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("dataset: phantom\nload_kwargs: {image_size: 64}\nbf16: false\n")
    config = ["--config", str(path)]
    args, *_ = parse(*config, "--dataset", "data/mine")
    assert args.dataset == "data/mine" and args.load_kwargs == {}
    for kept in (config, [*config, "--dataset", "phantom"]):
        assert parse(*kept)[0].load_kwargs == {"image_size": 64}
    args, *_ = parse(*config, "--dataset=data/mine", "--load_kwargs", '{"in_place": true}')
    assert args.load_kwargs == {"in_place": True}
    assert parse("--dataset", "mine", "--bf16", "false")[0].load_kwargs == {}
    path.write_text("a: [")
    with pytest.raises(yaml.YAMLError):
        parse(*config, "--dataset", "data/mine")


@pytest.mark.parametrize("name", ["save_strategy", "eval_strategy"])
def test_an_unquoted_no_of_yaml_is_a_strategy(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{name}: no\nbf16: false\n")
    assert getattr(parse("--config", str(path))[1], name) == "no"


NO_GPU, GPU, OLD_GPU = (False, False), (True, True), (True, False)  # an accelerator, and whether it has bf16


@pytest.mark.parametrize(
    "device, recipe, arguments, expected",
    [
        (NO_GPU, {"bf16": True}, [], {"use_cpu": True, "bf16": False}),
        (NO_GPU, {}, [], {"use_cpu": True, "bf16": False}),
        (NO_GPU, {"fp16": True}, [], {"use_cpu": True, "bf16": False, "fp16": False}),
        (NO_GPU, {"bf16": True, "tf32": True}, [], {"use_cpu": True, "bf16": False, "tf32": False}),
        (NO_GPU, {"bf16": True}, ["--bf16", "true"], {"use_cpu": True, "bf16": True}),
        (NO_GPU, {"bf16": True, "use_cpu": True}, [], {"use_cpu": True, "bf16": True}),
        (NO_GPU, {"use_cpu": True}, [], {"use_cpu": True, "bf16": False}),
        (NO_GPU, {"bf16": True}, ["--dry_run", "true"], {"use_cpu": True, "bf16": True}),
        (NO_GPU, {"bf16": False}, ["--use-cpu=true"], {"use_cpu": True, "bf16": False}),
        (GPU, {"bf16": True}, ["--use_cpu", "true"], {"use_cpu": True, "bf16": False}),
        (GPU, {"bf16": True}, [], None),
        (GPU, {"fp16": True}, [], None),
        (GPU, {}, [], None),
        (OLD_GPU, {"bf16": True}, [], {"bf16": False}),
        (OLD_GPU, {"bf16": True, "tf32": True}, [], {"bf16": False, "tf32": False}),
        (OLD_GPU, {}, [], {"bf16": False}),
        (OLD_GPU, {"fp16": True}, [], None),
        (OLD_GPU, {"bf16": True}, ["--bf16", "true"], None),
    ],
)
def test_precision_is_what_the_device_has(device, recipe, arguments, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device[0])
    monkeypatch.setattr("otdrg_hf.training.arguments.is_torch_bf16_gpu_available", lambda: device[1])
    recipe = {"seed": 1, **recipe}
    given = RecipeParser()._given(arguments)
    if expected is None:
        assert fit_recipe(recipe, given) == recipe
        return
    assert fit_recipe(recipe, given) == {**recipe, **{k: v for k, v in expected.items() if k not in given}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    _, training_args, _ = parse("--config", str(path), *arguments)
    assert {name: getattr(training_args, name) for name in expected} == expected


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU does what the recipes ask for")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_start_without_a_gpu(recipe):
    _, training_args, _ = parse("--config", str(recipe))
    assert training_args.device.type == "cpu" and training_args.mixed_precision == "no"
    _, training_args, _ = parse()  # a bare `otdrg train`
    assert training_args.device.type == "cpu" and not training_args.bf16


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(recipe):
    # bf16 is a question to the hardware, which is not what is tested.
    args, training_args, model_args = parse("--config", str(recipe), "--bf16", "false", "--use_cpu", "true")
    fields = yaml.safe_load(recipe.read_text())
    for name in fields.keys() - {"bf16", "report_to"}:  # "none" is read as an empty list
        holder = next(holder for holder in (args, training_args, model_args) if hasattr(holder, name))
        assert getattr(holder, name) == fields[name], name
    OTDRGConfig(**args.otdrg_config)  # validates
    check_options(args, training_args, model_args)
    sources = [model_args.model_name_or_path, args.vision_model, args.vision_config]
    assert sum(source is not None for source in sources) == 1
    assert not model_args.use_peft or args.stage == "finetune"


@pytest.mark.parametrize("path", sorted((TRAINING / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_configs_are_known_to_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))  # raises for a field that is not known
    assert config.mixed_precision == ("no" if path.stem == "cpu" else "bf16")
    fields = yaml.safe_load(path.read_text())
    if "fsdp_config" in fields:
        known = {f"fsdp_{field.name}" for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
        assert fields["fsdp_config"].keys() <= known | {"fsdp_version", "fsdp_offload_params"}


def load(model_name_or_path=None, **fields):
    return load_model_and_processor(
        StudyArguments(**fields), ModelConfig(model_name_or_path=model_name_or_path), SENTENCES
    )


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"vision_model": "a"},
        {"text_model": "a"},
        {"vision_config": VIT},
        {"vision_model": "a", "vision_config": VIT, "text_config": LLAMA},
        {"vision_model": "a", "text_model": "a", "vision_config": VIT, "text_config": LLAMA},
        {"model_name_or_path": "a", "vision_model": "a", "text_model": "a"},
        {"model_name_or_path": "a", "vision_config": VIT, "text_config": LLAMA},
    ],
)
def test_exactly_one_model_source(source):
    with pytest.raises(ValueError, match="Give either model_name_or_path"):
        load(**source)


@pytest.mark.parametrize("pretrained", ["vision", "text"])
def test_a_pretrained_backbone_meets_one_from_scratch(pretrained, tmp_path):
    model, processor = tiny_model(seed=3)
    if pretrained == "vision":
        model.model.vision_tower.save_pretrained(tmp_path)
        processor.image_processor.save_pretrained(tmp_path)
        joined, joint = load(vision_model=str(tmp_path), text_config=LLAMA, otdrg_config=OTDRG)
        name, other = "vision_tower", "language_model"
    else:
        language_model = AutoModelForCausalLM.from_config(model.config.text_config)
        language_model.save_pretrained(tmp_path)
        processor.tokenizer.save_pretrained(tmp_path)
        model.model.language_model = language_model.model
        joined, joint = load(text_model=str(tmp_path), vision_config=VIT, otdrg_config=OTDRG)
        name, other = "language_model", "vision_tower"

    def same(part: str) -> bool:
        pairs = zip(getattr(model.model, part).parameters(), getattr(joined.model, part).parameters(), strict=True)
        return all(torch.equal(*pair) for pair in pairs)

    assert same(name) and not same(other)
    batch = StudyCollator(joint)(tiny_rows(2))
    assert torch.isfinite(joined(**batch).loss)
    assert joint.num_finding_tokens == joined.config.finding_seq_length


def without(fields: dict, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"vision_config": without(VIT, "model_type"), "text_config": LLAMA}, "vision_config needs model_type"),
        ({"vision_config": VIT, "text_config": without(LLAMA, "vocab_size")}, "text_config needs vocab_size"),
        ({"vision_config": without(VIT, "image_size"), "text_config": LLAMA}, "image_size"),
        ({"vision_config": VIT, "text_config": LLAMA, "otdrg_config": {"epsilom": 1}}, "epsilom"),
        ({"vision_config": VIT, "text_config": LLAMA, "otdrg_config": {"epsilon": -1}}, "`epsilon` must be > 0"),
    ],
)
def test_incomplete_configurations_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        load(**fields)


def test_a_checkpoint_takes_other_settings_in_earnest(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    changed, _ = load(str(tmp_path), otdrg_config={"epsilon": 0.2, "ot_loss_weight": 0.5})
    assert changed.config.ot_loss_weight == 0.5
    batch = StudyCollator(processor)(tiny_rows(2))
    study = {key: batch[key] for key in ("pixel_values", "view_mask")}
    plans = [model.eval()(**study).transport_plan for model in (model, changed)]
    assert not torch.allclose(*plans, atol=1e-4)  # another epsilon, another plan
    with pytest.raises(ValueError, match="epsilom"):
        load(str(tmp_path), otdrg_config={"epsilom": 0.2})
    with pytest.raises(ValueError, match="ot_loss_weight"):
        load(str(tmp_path), otdrg_config={"ot_loss_weight": -2.0})


def test_the_processor_of_a_checkpoint_follows_its_other_settings(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    phrases = [[f"{phrase} on film" for phrase in label] for label in model.config.label_phrases]
    changed, processor = load(str(tmp_path), otdrg_config={"image_token_pooling": 4, "label_phrases": phrases})
    assert processor.num_image_tokens == changed.config.image_seq_length == 1
    assert changed.config.label_phrase_ids == processor.label_phrase_ids(changed.config)
    assert torch.equal(changed.model.label_encoder.phrase_ids, changed.model.label_encoder.padded_phrase_ids())
    batch = StudyCollator(processor)(tiny_rows(2))
    assert torch.isfinite(changed(**batch).loss)
    processor.save_pretrained(tmp_path / "next")
    assert type(processor).from_pretrained(tmp_path / "next").num_image_tokens == 1


def test_a_model_that_is_no_otdrg_is_named(tmp_path):
    model, _ = tiny_model()
    model.config.text_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no OTDRG checkpoint"):
        load(str(tmp_path))


def test_lora_targets_are_layers_of_the_llm():
    model, _ = tiny_model()  # its vision encoder has a q_proj, too
    config = adapter_config(model, ModelConfig(use_peft=True, lora_target_modules=["q_proj"]), "finetune")
    assert config.target_modules == {f"model.language_model.layers.{index}.self_attn.q_proj" for index in range(2)}
    with pytest.raises(ValueError, match="no_such_layer"):
        adapter_config(model, ModelConfig(use_peft=True, lora_target_modules=["no_such_layer"]), "finetune")
    with pytest.raises(ValueError, match="use_peft.*finetune"):
        adapter_config(model, ModelConfig(use_peft=True), "joint")
    assert adapter_config(model, ModelConfig(use_peft=False), "joint") is None


def test_a_dry_run_takes_the_model_of_the_recipe_that_will_write_its_checkpoint(tmp_path):
    align = {
        "output_dir": "out/align",
        "vision_model": "a/b",
        "text_config": LLAMA,
        "otdrg_config": OTDRG,
        "bf16": False,
    }
    (tmp_path / "align.yaml").write_text(yaml.safe_dump(align))
    own = {"epsilon": 0.1, "image_token_pooling": 4}
    finetune = {"model_name_or_path": "out/align", "stage": "finetune", "otdrg_config": own, "bf16": False}
    path = tmp_path / "finetune.yaml"
    path.write_text(yaml.safe_dump(finetune))
    config = ["--config", str(path)]
    args, _, model_args = parse(*config, "--dry_run", "true")
    assert (args.vision_model, args.text_config, args.otdrg_config) == ("a/b", LLAMA, {**OTDRG, **own})
    assert args.stage == "finetune" and model_args.model_name_or_path == "out/align"
    args, *_ = parse(*config, "--dry_run", "true", "--text_model", "c/d")
    assert (args.vision_model, args.text_model, args.text_config) == ("a/b", "c/d", None)
    for arguments in (["--dry_run", "true", "--model_name_or_path", str(tmp_path)], []):
        assert parse(*config, *arguments)[0].vision_model is None


def test_the_plan_of_such_a_run_has_its_visual_tokens(tmp_path, capsys):
    data = write_study_folder(tmp_path, train=4, validation=2)
    align = write_recipe(tmp_path, data, stage="align", output_dir="out/align")
    Path(align).rename(tmp_path / "align.yaml")
    train(tmp_path, data, "--dry_run", "true", stage="finetune", model_name_or_path="out/align", **NOTHING)
    assert "4 visual tokens per view" in capsys.readouterr().out
