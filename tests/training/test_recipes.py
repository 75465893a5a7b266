"""Each shipped recipe is planned by a dry run at its real size, and trains with tiny backbones of its families."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from tiny_training import write_study_folder
from transformers import Dinov2Config, LlamaConfig, Qwen3Config, SiglipVisionConfig

from otdrg_hf.modeling.backbones_otdrg import square_image_processor
from otdrg_hf.training.grpo import main as train_by_reward
from otdrg_hf.training.sft import main
from tests.support.families import save_text, save_vision
from tests.support.tiny_models import make_tokenizer

RECIPES = Path(__file__).parents[2] / "training/recipes"
PAIRS = ("iu_xray", "iu_xray_8b", "iu_xray_smollm2", "mimic_cxr", "mimic_cxr_8b")
NAMES = [f"{pair}_{stage}" for pair in PAIRS for stage in ("align", "finetune")] + ["iu_xray_smollm2_finetune_lora"]
GQA = {"num_key_value_heads": 8}
# The shapes of what the recipes name, as their config.json has them; the weights are not needed.
REAL = {
    "microsoft/rad-dino": Dinov2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=518, patch_size=14
    ),
    "google/siglip-so400m-patch14-384": SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    ),
    "facebook/dinov2-small": Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "Qwen/Qwen3-1.7B": Qwen3Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        head_dim=128,
        tie_word_embeddings=True,
        **GQA,
    ),
    "Qwen/Qwen3-8B": Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        head_dim=128,
        tie_word_embeddings=False,
        **GQA,
    ),
    "meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        **GQA,
    ),
}
BILLIONS = {
    "microsoft/rad-dino": 0.087,
    "google/siglip-so400m-patch14-384": 0.428,
    "facebook/dinov2-small": 0.022,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.135,
    "Qwen/Qwen3-1.7B": 1.72,
    "Qwen/Qwen3-8B": 8.19,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03,
}
TINY = {
    "microsoft/rad-dino": "dinov2",
    "google/siglip-so400m-patch14-384": "siglip",
    "facebook/dinov2-small": "dinov2",
}
TINY_TEXT = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "llama",
    "Qwen/Qwen3-1.7B": "qwen3",
    "Qwen/Qwen3-8B": "qwen3",
    "meta-llama/Llama-3.1-8B-Instruct": "llama",
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return write_study_folder(tmp_path_factory.mktemp("studies"), train=12, validation=4)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Folders with configuration, tokenizer and image processor of the backbones that the recipes name."""
    folders = {}
    for name, config in REAL.items():
        folder = tmp_path_factory.mktemp("real")
        config.save_pretrained(folder)
        if name in TINY:
            square_image_processor(config.image_size).save_pretrained(folder)
        else:
            make_tokenizer().save_pretrained(folder)
        folders[name] = str(folder)
    return folders


def recipe_of(name: str) -> dict:
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def command(name: str, studies: Path, **changes) -> list[str]:
    changes = {"dataset": studies, "load_kwargs": "{}", "target": "report", **changes}
    return [
        "--config",
        f"{RECIPES / name}.yaml",
        *(str(part) for key in changes for part in (f"--{key}", changes[key])),
    ]


def planned(output: str) -> dict[str, str]:
    return {line[:22].strip(): line[22:] for line in output.splitlines()}


def number(text: str) -> int:
    return int(re.sub(r"[,;]", "", text.split()[0]))


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_planned_at_its_real_size(name, real, studies, capsys):
    align = recipe_of(name.replace("finetune_lora", "align").replace("finetune", "align"))
    vision, text = align["vision_model"], align["text_model"]
    sources = {"vision_model": real[vision], "text_model": real[text], "image_size": align["image_size"]}
    main(command(name, studies, dry_run="true", **sources))
    plan = planned(capsys.readouterr().out)
    trained, frozen = number(plan["parameters trained"]), number(plan["parameters frozen"])
    assert (trained + frozen) / 1e9 == pytest.approx(BILLIONS[vision] + BILLIONS[text], rel=0.04, abs=0.01)
    assert trained < (0.6e9 if name.endswith("align") else 0.2e9)
    recipe = recipe_of(name)
    batch = recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"]
    assert number(plan["steps"]) == recipe["num_train_epochs"] * -(-12 // batch)
    memory = float(plan["memory per device"].split()[0])
    # Weights that stay as they are take 2 bytes with frozen_dtype, 4 without, and half of one in 4 bits.
    width = 0.5 if recipe.get("load_in_4bit") else 2 if recipe.get("frozen_dtype") else 4
    assert memory > width * frozen / 2**30
    assert "estimated" in plan["memory per device"] and plan["tokens per study"]


@pytest.mark.parametrize("pair", ["iu_xray_8b", "iu_xray_smollm2"])
def test_reward_recipe_is_planned_before_the_model_that_it_starts_from_is_there(pair, real, studies, capsys):
    align = recipe_of(f"{pair}_align")
    vision, text = align["vision_model"], align["text_model"]
    sources = {"vision_model": real[vision], "text_model": real[text]}
    train_by_reward(command(f"{pair}_grpo", studies, dry_run="true", **sources))
    plan = planned(capsys.readouterr().out)
    trained, frozen = number(plan["parameters trained"]), number(plan["parameters frozen"])
    assert (trained + frozen) / 1e9 == pytest.approx(BILLIONS[vision] + BILLIONS[text], rel=0.04, abs=0.01)
    recipe = recipe_of(f"{pair}_grpo")
    samples = recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"]
    assert plan["studies"].startswith(f"12; {samples} samples per step") and number(plan["steps"]) == 200
    assert "rollout" in plan["memory per device"]
    # A model with adapters is its own reference.
    assert ("reference" in plan["memory per device"]) is not recipe.get("use_peft", False)


def test_plan_of_a_recipe_from_scratch(studies, capsys):
    steps = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 5}
    main(command("phantom_align", studies, dry_run="true", **steps))
    plan = planned(capsys.readouterr().out)
    assert plan["studies"].startswith("12; 5 per step") and plan["steps"].startswith("9 (3 per epoch)")


def test_plan_counts_what_the_run_trains(studies, tmp_path, capsys):
    """Trained and frozen parameters and steps of a plan are those of the run."""
    vision, text = save_vision("dinov2", tmp_path / "v"), save_text("qwen3", tmp_path / "t")
    changes = tiny_changes(tmp_path, vision_model=vision, text_model=text, num_train_epochs=1, max_steps=-1)
    arguments = command("iu_xray_align", studies, **changes)
    main([*arguments, "--dry_run", "true"])
    plan = planned(capsys.readouterr().out)
    main(arguments)
    stage = json.loads((tmp_path / "out/training_record.json").read_text())["stages"][-1]
    assert number(plan["parameters trained"]) == stage["trained_parameters"]
    assert number(plan["parameters trained"]) + number(plan["parameters frozen"]) == stage["parameters"]
    assert number(plan["steps"]) == stage["steps"]
    assert number(plan["studies"]) == stage["studies"]["train"]


def tiny_changes(tmp_path: Path, **changes) -> dict:
    """What a CPU needs else than GPUs, and a small test else than a run."""
    return {
        "bf16": "false",
        "use_cpu": "true",
        "image_size": 64,
        "dataloader_num_workers": 0,
        "dataset_num_proc": 1,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 10,
        "save_steps": 10,
        "max_steps": 20,
        "warmup_steps": 2,
        "disable_tqdm": "true",
        "output_dir": tmp_path / "out",
        **changes,
    }


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_recipes_train_with_tiny_backbones_of_their_families(pair, studies, tmp_path):
    recipe = recipe_of(f"{pair}_align")
    vision = save_vision(TINY[recipe["vision_model"]], tmp_path / "vision")
    text = save_text(TINY_TEXT[recipe["text_model"]], tmp_path / "text")
    changes = tiny_changes(tmp_path, output_dir=tmp_path / "align", vision_model=vision, text_model=text)
    main(command(f"{pair}_align", studies, **changes))
    recipe = recipe_of(f"{pair}_finetune")
    changes = tiny_changes(tmp_path, model_name_or_path=tmp_path / "align")
    changes["generate_eval_studies"] = 2
    del changes["image_size"]
    if recipe.get("load_in_4bit") and not importlib.util.find_spec("bitsandbytes"):
        changes["load_in_4bit"] = "false"
    main(command(f"{pair}_finetune", studies, **changes))
    for folder, stages in (("align", 1), ("out", 2)):
        log = json.loads((tmp_path / folder / "training_log.json").read_text())
        assert log[-1]["step"] == 20 and all(entry["loss"] > 0 for entry in log if "loss" in entry)
        assert len(json.loads((tmp_path / folder / "training_record.json").read_text())["stages"]) == stages


@pytest.mark.slow
def test_phantom_recipes_train(tmp_path):
    changes = {"train_studies": 8, "eval_studies": 4, "disable_tqdm": "true", "per_device_train_batch_size": 2}
    changes |= {"max_steps": 20, "eval_strategy": "no", "save_strategy": "no", "use_cpu": "true", "warmup_steps": 2}
    data = {"dataset": "phantom", "load_kwargs": json.dumps({"image_size": 128, "cache_dir": str(tmp_path / "c")})}
    main([*command("phantom_align", tmp_path, **data, **changes, output_dir=tmp_path / "align")])
    start = {"model_name_or_path": tmp_path / "align", "output_dir": tmp_path / "finetune"}
    main(command("phantom_finetune", tmp_path, **data, **changes, **start))
    assert (tmp_path / "finetune/model.safetensors").is_file()
