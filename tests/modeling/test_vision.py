"""Tests of the patch features: exactly the patches of any encoder, whatever else its last hidden state holds."""

import pytest
import torch
from transformers import AutoModel

from otdrg_hf.modeling.vision_otdrg import encode_images, grid_positions, patch_features, patch_grid
from tests.support.tiny_models import VISION, make_vision_config


def encode(config, height=32, width=32):
    torch.manual_seed(0)
    tower = AutoModel.from_config(config).eval()
    pixels = torch.rand(2, 3, height, width)
    with torch.no_grad():
        return encode_images(tower, pixels), pixels


@pytest.mark.parametrize("name, extras", [("vit", 1), ("deit", 2), ("dinov2_registers", 5), ("clip", 1), ("siglip", 0)])
@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 24)])
def test_tokens_that_are_no_patches_are_dropped(name, extras, size):
    config = make_vision_config(name)
    hidden, pixels = encode(config, *size)
    rows, columns = size[0] // 8, size[1] // 8
    assert hidden.shape[1] == rows * columns + extras
    patches = patch_features(hidden, pixels, config, 16)
    torch.testing.assert_close(patches, hidden[:, extras:].reshape(2, rows, columns, 16), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (40, 24), (36, 32)])
def test_merged_patches_of_a_hierarchical_encoder(size):
    config = make_vision_config("swin")  # 4 pixels a patch, merged once
    hidden, pixels = encode(config, *size)
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    patches = patch_features(hidden, pixels, config, 16)
    torch.testing.assert_close(patches, hidden.reshape(2, rows, columns, 16), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet", "convnext"])
@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_feature_maps_become_grids(name, size):
    config = make_vision_config(name)
    hidden, pixels = encode(config, *size)
    assert hidden.dim() == 4 and hidden.shape[1] == 16
    patches = patch_features(hidden, pixels, config, 16)
    torch.testing.assert_close(patches, hidden.permute(0, 2, 3, 1), rtol=0, atol=0)


def test_feature_maps_with_channels_last_stay():
    hidden = torch.rand(2, 4, 6, 16)
    assert patch_features(hidden, torch.rand(2, 3, 32, 48), make_vision_config("vit"), 16) is hidden


@pytest.mark.parametrize(
    "tokens, height, width, patch_size, grid",
    [
        (197, 224, 224, 16, (14, 14)),
        (261, 224, 224, 14, (16, 16)),
        (198, 224, 224, None, (14, 14)),
        (49, 224, 224, 4, (7, 7)),
        (64, 230, 230, 4, (8, 8)),  # padded to 8 x 32 pixels
        (197, 230, 230, 16, (14, 14)),  # cut to 14 x 16 pixels
        (12 * 20 + 1, 200, 320, 16, (12, 20)),
    ],
)
def test_grid_of_known_encoders(tokens, height, width, patch_size, grid):
    assert patch_grid(tokens, height, width, patch_size) == grid


def test_no_grid_is_an_error():
    with pytest.raises(ValueError, match="No grid of patches fits 0 tokens"):
        patch_grid(0, 32, 32, 8)


def test_encoder_at_its_own_size_is_not_interpolated():
    config = make_vision_config("vit")
    tower = AutoModel.from_config(config).eval()
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = tower(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(encode_images(tower, pixels), expected, rtol=0, atol=0)


def test_positions_tell_all_patches_apart_and_not_the_resolution():
    positions = grid_positions(4, 6, 24, torch.device("cpu"), torch.float32).flatten(0, 1)
    distances = torch.cdist(positions, positions) + torch.eye(24) * 10
    assert distances.min() > 0.1
    coarse = grid_positions(1, 1, 24, torch.device("cpu"), torch.float32)[0, 0]
    fine = grid_positions(3, 3, 24, torch.device("cpu"), torch.float32)[1, 1]
    torch.testing.assert_close(coarse, fine)


def test_every_encoder_of_the_fixtures_has_the_grid_that_it_claims():
    for name, (_, _, grid) in VISION.items():
        hidden, pixels = encode(make_vision_config(name))
        assert tuple(patch_features(hidden, pixels, make_vision_config(name), 16).shape[1:3]) == grid, name
