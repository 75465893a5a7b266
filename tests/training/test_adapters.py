"""LoRA, DoRA and QLoRA from training to merging: what they train, and that their folders load as any model does."""

import importlib.util
import json

import pytest
import torch
from peft import get_peft_model
from tiny_runs import write_recipe
from tiny_training import LLAMA, RESNET, tiny_model, tiny_rows, tiny_trainer, write_study_folder
from transformers import AutoModel, AutoModelForImageTextToText, pipeline
from trl import ModelConfig

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.hub.command import merge_adapter
from otdrg_hf.modeling.backbones_otdrg import PROJECTORS
from otdrg_hf.training.adapters import adapter_config, put_on_base
from otdrg_hf.training.arguments import RecipeParser
from otdrg_hf.training.sft import set_up
from otdrg_hf.training.stages import apply_stage, cast_backbones

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
# A block of 4-bit weights that share a scale is 64 wide.
WIDE = {**LLAMA, "hidden_size": 64, "intermediate_size": 128}
KINDS = {
    "lora": ({}, False),
    "lora with vision": ({}, True),
    "dora": ({"use_dora": True}, False),
    "qlora": ({"load_in_4bit": True}, False),
}


def adapt(path, vision=False, **options):
    """A tiny model with adapters as training puts them on, its processor and the names of what it trains."""
    model, processor = tiny_model(text=WIDE)
    apply_stage(model, "finetune")
    model_args = ModelConfig(use_peft=True, lora_r=2, lora_dropout=0.0, **options)
    config = adapter_config(model, model_args, "finetune", vision)
    model = put_on_base(model, processor, str(path), model_args)
    apply_stage(model, "finetune")
    return get_peft_model(model, config), processor


def batch_of(processor) -> dict:
    rows = tiny_rows(2)
    inputs = processor(
        images=[row["images"] for row in rows],
        views=[row["views"] for row in rows],
        disease_labels=[row["disease_labels"] for row in rows],
    )
    return {**inputs, "labels": inputs["input_ids"]}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=needs_bitsandbytes if k == "qlora" else ()) for k in KINDS])
def test_an_adapter_trains_is_saved_loads_and_merges(kind, tmp_path):
    options, vision = KINDS[kind]
    adapted, processor = adapt(tmp_path, vision, **options)
    inputs = batch_of(processor)
    trained = {name for name, value in adapted.named_parameters() if value.requires_grad}
    copies = {name for name in trained if ".modules_to_save." in name}
    adapters = trained - copies
    assert {name.split(".modules_to_save.")[0].split(".")[-1] for name in copies} == set(PROJECTORS)
    assert all(".lora_" in name for name in adapters)
    assert any(".vision_tower." in name for name in adapters) == vision
    assert any("lora_magnitude_vector" in name for name in adapters) == (kind == "dora")

    optimizer = torch.optim.SGD([value for value in adapted.parameters() if value.requires_grad], lr=0.1)
    before = {name: value.detach().clone() for name, value in adapted.named_parameters()}
    for _ in range(2):  # at the first step B is zero, so that A has no gradient
        optimizer.zero_grad()
        adapted(**inputs).loss.backward()
        assert not [name for name, value in adapted.named_parameters() if value.requires_grad and value.grad is None]
        optimizer.step()
    moved = {name for name, value in adapted.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= trained and moved >= adapters

    adapted.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(**inputs).logits
    if kind == "qlora":
        # Loaded again, it sits on the base in full precision, from which it was quantised.
        linear = adapted.base_model.model.model.language_model.layers[0].mlp.up_proj.base_layer
        assert type(linear).__name__ == "Linear4bit"
        assert type(adapted.base_model.model.model.vision_tower.layers[0].mlp.fc1) is torch.nn.Linear
        assert "quantization_config" not in json.loads((tmp_path / "base/config.json").read_text())
    tolerance = 0.3 if kind == "qlora" else 1e-5
    for auto in (AutoModel, AutoModelForImageTextToText):
        with torch.no_grad():
            logits = auto.from_pretrained(tmp_path).eval()(**inputs).logits
        assert (logits - expected).abs().max() < tolerance * expected.abs().max()
    answer = pipeline("radiology-report", model=str(tmp_path))(tiny_rows(1)[0]["images"][0], max_new_tokens=3)
    assert len(answer["findings"]) == 14
    merge_adapter(tmp_path, tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, logits, atol=1e-4, rtol=1e-4)


def test_no_adapter_is_put_where_no_gradient_comes(tmp_path):
    model, _ = tiny_model()
    targets = adapter_config(model, ModelConfig(use_peft=True), "finetune", vision=True).target_modules
    assert any("vision_tower" in name for name in targets) and not any("pooler" in name for name in targets)
    assert not any(value.requires_grad for value in apply_stage(model, "finetune")[0].parameters())


@pytest.mark.parametrize(
    "vision_config, options, vision, message",
    [
        (RESNET, {"use_peft": True}, True, "no linear layer in a ResNetModel"),
        (None, {"use_peft": False}, True, "go with use_peft"),
        (None, {"use_peft": False, "load_in_4bit": True}, False, "go with use_peft"),
    ],
)
def test_what_cannot_be_adapted_is_named(vision_config, options, vision, message):
    model, _ = tiny_model(vision_config) if vision_config else tiny_model()
    with pytest.raises(ValueError, match=message):
        adapter_config(model, ModelConfig(**options), "finetune", vision)


@pytest.mark.parametrize("vision", [False, True])
def test_gradients_pass_through_a_backbone_only_where_something_of_it_is_trained(vision, tmp_path):
    adapted, processor = adapt(tmp_path, vision)
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    seen = {}
    body = adapted.base_model.model.model
    for name in ("vision_tower", "language_model"):
        module = getattr(body, name)
        module.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: output.last_hidden_state.requires_grad})
        )
    adapted.train()(**batch_of(processor)).loss.backward()
    assert seen == {"vision_tower": vision, "language_model": True}
    trained = [value for value in adapted.parameters() if value.requires_grad]
    assert all(value.grad is not None for value in trained)


def test_lora_targets_are_layers_of_the_llm():
    model, _ = tiny_model()  # its vision encoder has a q_proj, too
    config = adapter_config(model, ModelConfig(use_peft=True, lora_target_modules=["q_proj"]), "finetune")
    assert config.target_modules == {f"model.language_model.layers.{index}.self_attn.q_proj" for index in range(2)}
    with pytest.raises(ValueError, match="no_such_layer"):
        adapter_config(model, ModelConfig(use_peft=True, lora_target_modules=["no_such_layer"]), "finetune")
    with pytest.raises(ValueError, match="use_peft.*finetune"):
        adapter_config(model, ModelConfig(use_peft=True), "joint")
    assert adapter_config(model, ModelConfig(use_peft=False), "joint") is None


def test_what_is_quantised_around_stays_as_it_was(tmp_path, monkeypatch):
    """As far as that shows without bitsandbytes: the loading, and none of the packing."""
    model, processor = tiny_model(text=WIDE)
    apply_stage(model, "finetune")
    model_args = ModelConfig(use_peft=True, load_in_4bit=True)
    cast_backbones(model, "bfloat16", adapted=True)
    load = OTDRGForConditionalGeneration.from_pretrained
    options = {"quantization_config", "device_map"}
    unpacked = staticmethod(lambda path, **given: load(path, **{k: v for k, v in given.items() if k not in options}))
    monkeypatch.setattr(OTDRGForConditionalGeneration, "from_pretrained", unpacked)
    monkeypatch.setattr("otdrg_hf.training.adapters.BitsAndBytesConfig", lambda **_: None)
    loaded = put_on_base(model, processor, str(tmp_path), model_args)
    assert loaded is not model
    dtypes = {name.split(".")[1]: value.dtype for name, value in loaded.named_parameters()}
    assert dtypes["language_model"] == dtypes["vision_tower"] == torch.bfloat16 and dtypes["fusion"] == torch.float32
    for (name, value), before in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert value.dtype == before.dtype and torch.equal(value, before), name


def test_what_is_trained_on_a_quantised_model_is_fp32_and_starts_where_it_was(studies, tmp_path):
    model, processor = tiny_model()
    model.is_loaded_in_8bit = True  # by which TRL knows one, and casts what is trained to bf16
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = tiny_trainer(
        tmp_path, studies, stage="finetune", lora=True, built=(model, processor), learning_rate=1e-4, max_steps=1
    )
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert {value.dtype for value in trained.values()} == {torch.float32}
    copies = {
        name.removeprefix("base_model.model.").replace("modules_to_save.default.", ""): value
        for name, value in trained.items()
        if "modules_to_save" in name
    }
    assert copies and all(torch.equal(value, before[name]) for name, value in copies.items())
    trainer.train()
    gain = "model.patch_projection.output_norm.weight"
    assert not torch.equal(copies[gain], before[gain])
    assert torch.equal(copies[gain].bfloat16(), before[gain].bfloat16())  # where it could not have moved


def test_adapters_of_a_frozen_encoder_have_their_dropout(tmp_path):
    for part in tiny_model():
        part.save_pretrained(tmp_path / "start")
    options = {"use_peft": True, "lora_r": 2, "lora_dropout": 0.5, "lora_vision": True, "stage": "finetune"}
    options |= {"vision_config": None, "text_config": None, "otdrg_config": None, "max_steps": 1}
    data = write_study_folder(tmp_path, train=4, validation=2)
    recipe = write_recipe(tmp_path, data, model_name_or_path=str(tmp_path / "start"), **options)
    trainer = set_up(*RecipeParser().parse_args_and_config(["--config", recipe]))
    trainer.train()
    tower = trainer.model.get_base_model().model.vision_tower
    training = {name for name, part in tower.named_modules() if part.training}
    assert training and all("lora_dropout" in name for name in training)
    assert training == {name for name, _ in tower.named_modules() if "lora_dropout" in name}


@pytest.mark.parametrize("where", ["adapter_kwargs", "download_kwargs"])
def test_magnitudes_come_from_where_the_adapter_does(where, tmp_path):
    adapted, processor = adapt(tmp_path, use_dora=True)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_magnitude_vector" in name:
                value.mul_(3)
    adapted.save_pretrained(tmp_path / "dora")
    sums = []
    for folder, options in ((tmp_path / "dora", {}), (tmp_path, {where: {"subfolder": "dora"}})):
        model = OTDRGForConditionalGeneration.from_pretrained(tmp_path / "base")
        model.load_adapter(str(folder), **options)
        sums.append(sum(float(v.sum()) for n, v in model.named_parameters() if "lora_magnitude_vector" in n))
    assert sums[0] == sums[1] > 0
