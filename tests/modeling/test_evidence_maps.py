"""Heat maps: interpolated as images are, and moved to where patches lie."""

import pytest
import torch
from torch.nn.functional import interpolate

from otdrg_hf.modeling.vision_otdrg import evidence_map


@pytest.mark.parametrize("size", [(8, 12), (37, 21), (4, 3)])
def test_patches_on_an_even_grid_are_interpolated(size):
    evidence = torch.rand(4, 3)
    expected = interpolate(evidence[None, None], size=size, mode="bilinear")[0, 0]
    torch.testing.assert_close(evidence_map(evidence, size, [0.0, 0.0]), expected)


def test_a_peak_is_where_its_patch_lies():
    evidence = torch.zeros(4, 6)
    evidence[2, 3] = 1
    heat = evidence_map(evidence, (400, 600), [-0.4, 0.25])
    row, column = divmod(int(heat.argmax()), 600)
    assert (row / 400, column / 600) == pytest.approx(((2.5 - 0.4) / 4, (3.5 + 0.25) / 6), abs=0.01)
    assert heat.max() > 0.98
