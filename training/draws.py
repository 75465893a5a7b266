"""Random draws of training studies that a resumed run, or one of more workers or processes, repeats."""

import zlib
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback


class StudyDraws(TrainerCallback):
    """
    Base of what draws something for each study in each epoch. What is drawn follows from study, epoch and seed alone.

    Args:
        seed (`int`): Of all draws.
        stream (`int`, *optional*): Makes the draws independent of those of another stream.
    """

    def __init__(self, seed: int = 0, stream: int | None = None):
        self.seed, self.stream = seed, stream
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # with the workers that load the studies

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch.fill_(int(state.epoch or 0))

    def generator(self, study: dict[str, Any]) -> np.random.Generator:
        """A generator for one study in this epoch."""
        stream = [] if self.stream is None else [self.stream]
        return np.random.default_rng([self.seed, int(self.epoch), zlib.crc32(study["id"].encode()), *stream])
