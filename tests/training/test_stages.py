"""The last blocks of a vision encoder are trained, and the rest of it is frozen."""

import pytest
import torch
from tiny_runs import refusal, train
from tiny_training import LLAMA, RESNET, VIT, tiny_model, write_study_folder

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.training.stages import apply_stage, cast_backbones, transformer_blocks

DEEP = {**VIT, "num_hidden_layers": 4}
# The row of blocks and what comes behind it, up to what its patches depend on.
BLOCKS = {
    "vit": ("layernorm",),
    "dinov2": ("layernorm",),
    "siglip_vision_model": ("post_layernorm",),
    "clip_vision_model": (),
}
SWIN = {"model_type": "swin", "image_size": 64, "patch_size": 4, "embed_dim": 16, "window_size": 2}


def trained_of_tower(model) -> set[str]:
    return {name for name, parameter in model.model.vision_tower.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", BLOCKS)
def test_the_last_block_and_the_norm_behind_it_are_trained(family):
    model, _ = tiny_model({**DEEP, "model_type": family})
    tower = model.model.vision_tower
    name, blocks = transformer_blocks(tower)
    frozen = apply_stage(model, "align", train_vision_blocks=1)
    trained = trained_of_tower(model)
    last = f"{name}.{len(blocks) - 1}."
    assert {each for each in trained if each.startswith(last)} == {
        f"{last}{each}" for each, _ in blocks[-1].named_parameters()
    }
    behind = {each.rpartition(".")[0] for each in trained if not each.startswith(last)}
    assert len(blocks) == 4 and {each.split(".")[-1] for each in behind} == set(BLOCKS[family])
    assert any(module is blocks[0] for module in frozen) and not any(module is blocks[-1] for module in frozen)
    every = apply_stage(model, "align")
    assert len(trained_of_tower(model)) > len(trained) and not any(module is blocks[0] for module in every)


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_a_run_moves_the_last_blocks_alone_at_their_own_rate(stage, tmp_path):
    data = write_study_folder(tmp_path, train=4, validation=2)
    changes = {"vision_config": DEEP, "stage": stage, "seed": 3}
    start = train(tmp_path, data, output_dir=str(tmp_path / "start"), max_steps=1, learning_rate=0.0, **changes)
    blocks = {"train_vision_blocks": 2, "vision_learning_rate": 1e-3}
    end = train(tmp_path, data, output_dir=str(tmp_path / "end"), **changes, **blocks)
    before, after = (OTDRGForConditionalGeneration.from_pretrained(path).model.vision_tower for path in (start, end))
    name, _ = transformer_blocks(after)
    moved = {
        key for (key, old), new in zip(before.named_parameters(), after.parameters(), strict=True) if (old != new).any()
    }
    assert {key.removeprefix(f"{name}.")[:1] for key in moved if key.startswith(name)} == {"2", "3"}
    assert {key for key in moved if not key.startswith(name)} == {"layernorm.weight", "layernorm.bias"}
    steps = [(old - new).abs().max() for old, new in zip(before.parameters(), after.parameters(), strict=True)]
    assert max(steps) < 3e-3  # two steps of Adam


def test_gradients_end_at_the_last_blocks():
    model, processor = tiny_model(DEEP)
    apply_stage(model, "align", train_vision_blocks=1)
    reached = []
    _, blocks = transformer_blocks(model.model.vision_tower)
    for index, block in enumerate(blocks):
        block.register_full_backward_hook(lambda *_, index=index: reached.append(index))
    pixels = torch.randn(1, 1, 3, 64, 64)
    model(pixel_values=pixels, disease_labels=torch.ones(1, 14, dtype=torch.long)).loss.backward()
    assert reached == [3]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_vision_blocks": 5}, "train_vision_blocks is 5, but a ViTModel has 4 blocks"),
        ({"train_vision_blocks": 0}, "train_vision_blocks is 0: give 1 or more, or --freeze_vision"),
        ({"train_vision_blocks": 1, "freeze_vision": True}, "--freeze_vision leaves nothing"),
        (
            {"train_vision_blocks": 1, "stage": "finetune"},
            "--train_vision_blocks is for the stages align, joint",
        ),
    ],
)
def test_blocks_that_cannot_be_trained_are_named(changes, message, tmp_path):
    data = write_study_folder(tmp_path, train=2, validation=2)
    assert message in refusal(tmp_path, data, **{"vision_config": DEEP, "stage": "align", **changes})


def test_encoders_without_one_row_of_blocks_are_named():
    model, _ = tiny_model({**SWIN, "depths": [1, 1, 5, 1], "num_heads": [2, 2, 2, 2]})
    with pytest.raises(ValueError, match="needs blocks in one row, and a SwinModel has several stages"):
        apply_stage(model, "align", train_vision_blocks=1)
    with pytest.raises(ValueError, match="finds no list of blocks in a Linear"):
        transformer_blocks(torch.nn.Linear(1, 1))
    apply_stage(tiny_model(RESNET)[0], "align", train_vision_blocks=1)  # its last stage


@pytest.mark.parametrize("tied", [True, False])
def test_a_policy_is_the_layers_of_the_llm_and_an_output_of_its_own(tied):
    model, _ = tiny_model(text={**LLAMA, "tie_word_embeddings": tied})
    apply_stage(model, "reward")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inside = {
        name for name in trained if name.startswith(("model.language_model.layers.", "model.language_model.norm."))
    }
    assert inside and trained - inside == (set() if tied else {"lm_head.weight"})
    # What is frozen is cast, but for what the trained layers compute with.
    cast_backbones(model, "bfloat16", adapted=False)
    assert model.model.vision_tower.dtype == torch.bfloat16
    assert model.lm_head.weight.dtype == model.get_input_embeddings().weight.dtype == torch.float32
    cast_backbones(model, "bfloat16", adapted=True)
    assert model.lm_head.weight.dtype == torch.bfloat16
