"""The first blocks of a vision encoder where the last ones are trained: run once per image, and skipped after that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from otdrg_hf.modeling.vision_otdrg import encode_images
from otdrg_hf.training.stages import transformer_blocks


class FrozenBlocks:
    """
    Args:
        tower (`nn.Module`): The vision encoder, after [`apply_stage`].
        trained (`int`): How many of its last blocks are trained.

    Raises:
        ValueError: if none is left to be frozen, or blocks give more than their hidden states.
    """

    def __init__(self, tower: nn.Module, trained: int):
        _, blocks = transformer_blocks(tower)
        self.tower, count = tower, len(blocks) - trained
        if count < 1:
            raise ValueError(
                f"--feature_cache has nothing to keep: all {len(blocks)} blocks are trained. Leave it out."
            )
        self.frozen, self.trained = blocks[:count], blocks[count:]
        self.trained_names = {key for key, parameter in tower.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def run(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the first trained block is given of images `[B, 3, H, W]`: `[B, tokens, c]` of most encoders."""
        outputs = []
        hook = self.frozen[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            with _replaced(self.trained, lambda hidden: hidden):
                encode_images(self.tower, pixel_values)
        finally:
            hook.remove()
        if not isinstance(outputs[0], torch.Tensor):
            raise ValueError(f"--feature_cache cannot keep the blocks of a {type(self.tower).__name__}: leave it out.")
        return outputs[0]

    @contextmanager
    def skipped(self, hidden: torch.Tensor) -> Iterator[None]:
        """Within it, the encoder takes `hidden`, which [`run`] gave of the same images before, for what they give."""
        with _replaced(self.frozen, lambda own: hidden.to(own)):
            yield


@contextmanager
def _replaced(blocks: nn.ModuleList, give: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Blocks that give what `give` makes of their hidden states, wherever the encoder calls them from."""
    for block in blocks:
        block.forward = lambda hidden, *args, **kwargs: give(hidden)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
