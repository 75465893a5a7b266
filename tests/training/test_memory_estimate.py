"""Tests of the memory estimate: activations as measured, weights in the dtype of the run, logits held by the loss."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_training import OTDRG, VIT, tiny_model
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from otdrg_hf.modeling.losses_otdrg import CHUNK_LOGITS
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.memory_estimate import Step, memory
from otdrg_hf.training.model_setup import empty_model_and_processor, load_model_and_processor
from otdrg_hf.training.stages import apply_stage
from tests.support.families import save_text, save_vision
from tests.support.tiny_models import make_model

# Of SmolLM2's proportions: what is measured depends on them.
SMALL = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 144,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def saved_bytes(model, run) -> int:
    """Bytes that a forward pass keeps for the backward pass, without those of the weights."""
    weights = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept = {}  # the tensors themselves, or another would get the address of one that is gone

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", ["full", "adapters", "adapters with dropout"])
@pytest.mark.parametrize("half", [False, True])
def test_activations_of_the_llm_are_those_that_are_kept(kind, half):
    model, _ = tiny_model(text=SMALL)
    model.model.vision_tower.requires_grad_(False)
    llm = model.model.language_model
    if kind != "full":
        llm.requires_grad_(False)
        names = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
        dropout = 0.05 if "dropout" in kind else 0.0
        config = LoraConfig(r=2, lora_dropout=dropout, target_modules=f".*language_model.*({names})")
        get_peft_model(model, config)

    def run(tokens: int) -> int:
        embeds = torch.randn(2, tokens, 144, requires_grad=True)
        mask = torch.ones(2, tokens, dtype=torch.long)
        mask[0, :5] = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return saved_bytes(model, lambda: llm.train()(inputs_embeds=embeds, attention_mask=mask, use_cache=False))

    steps = [Step(2, 0, tokens, 1, half, checkpointing=False, runs_llm=True, llm=kind) for tokens in (48, 96)]
    estimated = [memory(model, step, devices=1)["activations"] for step in steps]
    # What does not grow with the tokens, such as weights in half precision, is not an activation.
    assert estimated[1] - estimated[0] == pytest.approx(run(96) - run(48), rel=0.15)


def test_blocks_of_the_vision_encoder_that_are_frozen_keep_nothing():
    step = Step(2, 1, 50, 1, half_precision=False, checkpointing=False, runs_llm=False)
    model, _ = tiny_model({**VIT, "num_hidden_layers": 4})
    kept = {}
    for count in (None, 4, 1):
        apply_stage(model, "align", train_vision_blocks=count)
        kept[count] = memory(model, step, devices=1)["activations"]
    assert kept[None] == kept[4] == 4 * kept[1] > 0


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer():
    model, _ = tiny_model(text=SMALL)
    step = Step(2, 1, 50, 1, half_precision=False, checkpointing=True, runs_llm=True)
    vision = 2 * 16 * 32 * (4 + 68)  # two images of 16 patches, one layer
    assert memory(model, step, devices=1)["activations"] == 2 * 50 * 144 * (4 * 4 + 89.5) + vision


@pytest.mark.parametrize("kept, trained", [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "auto")])
@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_weights_are_counted_in_the_dtype_of_the_run(kept, trained, from_checkpoint, tmp_path):
    vision, text = save_vision("vit", tmp_path / "v"), save_text("llama", tmp_path / "t")
    AutoModelForCausalLM.from_pretrained(text, dtype=kept).save_pretrained(text)
    args = StudyArguments(vision_model=vision, text_model=text, otdrg_config=OTDRG | {"image_token_pooling": 1})
    model_args = ModelConfig(dtype=trained)
    if from_checkpoint:
        model, processor = load_model_and_processor(args, ModelConfig(dtype=kept), [])
        model.save_pretrained(tmp_path / "m")
        processor.save_pretrained(tmp_path / "m")
        args = StudyArguments()
        model_args = ModelConfig(model_name_or_path=str(tmp_path / "m"), dtype=trained)
    empty, _ = empty_model_and_processor(args, model_args, [])
    real, _ = load_model_and_processor(args, model_args, [])
    assert all(value.is_meta for value in empty.parameters())
    step = Step(1, 1, 10, 5, half_precision=False, checkpointing=False, runs_llm=True)
    assert memory(empty, step, devices=1)["weights"] == memory(real, step, devices=1)["weights"]


def test_a_model_from_scratch_is_counted_in_the_dtype_of_the_run():
    args = StudyArguments(vision_config=VIT, text_config=SMALL, otdrg_config=OTDRG)
    step = Step(1, 1, 10, 5, half_precision=True, checkpointing=False, runs_llm=True)
    parts = [
        memory(empty_model_and_processor(args, ModelConfig(dtype=dtype), ["Clear."])[0], step, devices=1)
        for dtype in ("float32", "bfloat16")
    ]
    assert parts[0]["weights"] == 2 * parts[1]["weights"]
    # Autocast makes copies of what is not in half precision as it is.
    assert parts[0]["half-precision copies"] > 0 == parts[1]["half-precision copies"]


def logits_bytes(model, supervised: int) -> float:
    step = Step(1, 1, supervised, supervised, half_precision=False, checkpointing=False, runs_llm=True)
    return memory(model, step, devices=1)["vocabulary logits"]


def test_logits_are_counted_up_to_a_chunk_and_the_gradient_of_the_projection():
    model = make_model()
    vocabulary = model.config.text_config.vocab_size
    most = CHUNK_LOGITS // vocabulary
    assert logits_bytes(model, most) == 12 * most * vocabulary
    weight = model.lm_head.weight
    assert logits_bytes(model, 4 * most) == logits_bytes(model, 8 * most) == 12 * CHUNK_LOGITS + 4 * weight.numel()
    weight.requires_grad_(False)
    assert logits_bytes(model, 8 * most) == 12 * CHUNK_LOGITS


@pytest.mark.parametrize("how", ["adapter", "sharded"])
def test_a_projection_that_has_to_be_called_gives_all_logits(how, monkeypatch):
    model = make_model()
    number = 2 * CHUNK_LOGITS // model.config.text_config.vocab_size
    expected = 12 * number * model.config.text_config.vocab_size
    if how == "adapter":
        model = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    else:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert logits_bytes(model, number) == expected
