"""The command line: JSON fields, unknown fields, model sources and recipes."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from tiny_runs import train, write_recipe
from tiny_training import LLAMA, OTDRG, write_study_folder

from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.training.arguments import RecipeParser, StudyArguments, fit_recipe
from otdrg_hf.training.options import check_options

TRAINING = Path(__file__).parents[2] / "training"
# Those of ablations are read by training/ablate.py and tested with it, those of rewards by training/grpo.py.
RECIPES = sorted(
    set((TRAINING / "recipes").glob("*.yaml"))
    - set((TRAINING / "recipes").glob("ablation_*.yaml"))
    - set((TRAINING / "recipes").glob("*_grpo.yaml"))
)


@pytest.mark.parametrize(
    "stage, changes, message",
    [
        ("finetune", {"vision_learning_rate": 1e-5}, "--vision_learning_rate goes with --lora_vision"),
        ("align", {"text_learning_rate": 1e-5}, "--text_learning_rate is for the stages warmup"),
        ("align", {"finding_weight": 3.0}, "--finding_weight is for the stages"),
        ("align", {"predicted_label_rate": 0.5}, "--predicted_label_rate is for the stages finetune, joint"),
        ("align", {"changed_report_rate": 0.5}, "--changed_report_rate is for the stages"),
        ("align", {"overridden_label_rate": 0.5}, "--overridden_label_rate is for the stages"),
        ("align", {"indication_dropout": 0.5}, "--indication_dropout is for the stages"),
        ("warmup", {"freeze_vision": True}, "--freeze_vision is for the stages"),
        ("warmup", {"vision_learning_rate": 0.0}, "leave it out of the stage 'warmup'"),
        ("joint", {"lora_vision": True}, "--lora_vision is for the stages finetune"),
    ],
)
def test_an_option_that_a_stage_does_not_act_on_is_refused(stage, changes, message):
    with pytest.raises(ValueError, match=message):
        StudyArguments(stage=stage, **changes)
    defaults = {field.name: field.default for field in dataclasses.fields(StudyArguments)}
    StudyArguments(stage=stage, **{name: defaults[name] for name in changes})  # what says the default is no mistake


def test_what_a_stage_acts_on_is_taken():
    StudyArguments(stage="finetune", vision_learning_rate=1e-5, lora_vision=True)
    StudyArguments(stage="finetune", freeze_vision=True, feature_cache="f", text_learning_rate=1e-5)
    StudyArguments(stage="warmup", changed_report_rate=0.5, indication_dropout=0.5, finding_weight=3.0)


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


FROZEN = {"frozen_dtype": "bfloat16"}
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
        (NO_GPU, {"bf16": True, **FROZEN}, [], {"use_cpu": True, "bf16": False, "frozen_dtype": None}),
        (NO_GPU, {"bf16": True, **FROZEN}, ["--bf16", "false"], {"use_cpu": True, "bf16": False, "frozen_dtype": None}),
        (NO_GPU, {"bf16": True, **FROZEN}, ["--bf16", "true"], {"use_cpu": True, "bf16": True, **FROZEN}),
        (NO_GPU, {"use_cpu": True, "bf16": False, **FROZEN}, [], FROZEN),
        (NO_GPU, FROZEN, ["--frozen_dtype", "bfloat16"], {"use_cpu": True, "bf16": False, **FROZEN}),
        (NO_GPU, {"bf16": False}, ["--use-cpu=true"], {"use_cpu": True, "bf16": False}),
        (GPU, {"bf16": True}, ["--use_cpu", "true"], {"use_cpu": True, "bf16": False}),
        (GPU, {"bf16": True}, [], None),
        (GPU, {"fp16": True}, [], None),
        (GPU, {}, [], None),
        (OLD_GPU, {"bf16": True}, [], {"bf16": False}),
        (OLD_GPU, {"bf16": True, **FROZEN}, [], {"bf16": False, "frozen_dtype": None}),
        (GPU, {"bf16": True, **FROZEN}, [], None),
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
    args, training_args, _ = parse("--config", str(path), *arguments)
    for name, value in expected.items():
        assert getattr(args if name == "frozen_dtype" else training_args, name) == value


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
    args, training_args, model_args = parse("--config", str(recipe), "--bf16", "true", "--use_cpu", "true")
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


def test_epochs_on_the_command_line_win_over_the_steps_of_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: out\nmax_steps: 3000\n")
    parse = RecipeParser().parse_args_and_config
    _, training_args, _ = parse(["--config", str(recipe), "--num_train_epochs", "2"])
    assert (training_args.max_steps, training_args.num_train_epochs) == (-1, 2)
    _, training_args, _ = parse(["--config", str(recipe), "--num_train_epochs", "2", "--max_steps", "5"])
    assert training_args.max_steps == 5
