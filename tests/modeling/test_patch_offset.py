"""Where patches lie: beside the centre of gravity of the pixels that reach them, in convolutions without a sign."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from otdrg_hf.modeling.backbones_otdrg import probe_patches, square_image_processor
from otdrg_hf.modeling.vision_otdrg import Resizing, patch_offset, recorded_layers
from tests.support.tiny_models import make_vision_config

SIZE = 256
ENCODERS = {
    "resnet": {"depths": [1, 1, 1], "hidden_sizes": [8] * 3, "embedding_size": 8, "layer_type": "basic"},
    "regnet": {"depths": [1, 1, 1], "hidden_sizes": [8] * 3, "embedding_size": 8, "groups_width": 4, "layer_type": "x"},
    "mobilenet_v1": {"depth_multiplier": 0.25, "tf_padding": False},
}


def without_signs(encoder: nn.Module) -> nn.Module:
    """Equal weights and means instead of maxima: each patch is then a weighted sum of the pixels that reach it."""
    for parent in list(encoder.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            elif isinstance(module, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
    return encoder


def centre_of_gravity(maps: torch.Tensor, image: torch.Tensor, row: int, column: int) -> tuple[float, float]:
    """Of the pixels of an image `[1, 3, H, W]` by their influence on a place of maps `[1, c, h, w]`, in 0..1."""
    (influence,) = torch.autograd.grad(maps[0, :, row, column].sum(), image)
    weights = influence[0].sum(0).double() / influence.sum()  # [H, W]
    y, x = ((torch.arange(side) + 0.5) / side for side in weights.shape)
    return float((weights.sum(1) * y).sum()), float((weights.sum(0) * x).sum())


@pytest.mark.parametrize("name", ENCODERS)
def test_patches_lie_where_the_pixels_are_that_reach_them(name):
    encoder = AutoModel.from_config(AutoConfig.for_model(name, **ENCODERS[name])).eval()
    found = probe_patches(encoder, square_image_processor(SIZE))
    (rows, columns), (down, right) = found["image_grid"], found["patch_offset"]
    assert down < -0.4 and right < -0.4
    image = torch.ones(1, 3, SIZE, SIZE, requires_grad=True)
    y, x = centre_of_gravity(without_signs(encoder)(image).last_hidden_state, image, rows // 2, columns // 2)
    assert rows // 2 + 0.5 + down == pytest.approx(y * rows, abs=0.01)
    assert columns // 2 + 0.5 + right == pytest.approx(x * columns, abs=0.01)


def test_rows_and_columns_that_are_padded_on_one_side():
    layers = nn.Sequential(nn.ZeroPad2d((0, 1, 1, 0)), nn.Conv2d(3, 2, 3, stride=2), nn.Conv2d(2, 2, (4, 2), (4, 2)))
    image = torch.ones(1, 3, 64, 32, requires_grad=True)
    with recorded_layers(layers) as recorded:
        layers(image)
    maps = without_signs(layers)(image)
    down, right = (patch_offset(*each) for each in zip(recorded, (64, 32), maps.shape[2:], strict=True))
    y, x = centre_of_gravity(maps, image, 3, 3)
    assert (3.5 + down, 3.5 + right) == pytest.approx((y * maps.shape[2], x * maps.shape[3]), abs=1e-4)
    assert down < 0 < right


@pytest.mark.parametrize("name", ["vit", "dinov2_registers", "swin", "convnext"])
def test_encoders_that_cut_an_image_into_squares_have_none(name):
    encoder = AutoModel.from_config(make_vision_config(name))
    assert probe_patches(encoder, square_image_processor(32))["patch_offset"] == [0, 0]


def test_padding_that_settings_do_not_tell_counts_as_even():
    assert patch_offset([Resizing(32, 16, kernel=3, stride=2, before=0, after=0)], 32, 16) == 0


def test_hooks_are_taken_off_where_the_encoder_fails():
    layer = nn.Conv2d(3, 2, 2, stride=2)
    with pytest.raises(RuntimeError), recorded_layers(layer):
        layer(torch.ones(1, 5, 8, 8))
    assert not layer._forward_hooks
