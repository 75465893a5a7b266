"""Batches of studies of similar length: what a short report is padded by is computed as well, and for nothing."""

from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset
from torch.utils.data import Sampler

# Batches that are sorted together: enough for little padding, few enough for batches that differ from epoch to epoch.
BATCHES_PER_BUCKET = 50
CHARACTERS_PER_TOKEN = 4


def study_lengths(studies: Dataset, target: str, tokens_per_view: int) -> list[int]:
    """Tokens of each study, roughly, from the number of its views and the characters of its texts; no film is read."""
    texts = studies.select_columns(["views", "indication", "comparison", target]).with_format(None)
    lengths = []
    for row in texts:
        characters = sum(len(row[name] or "") for name in {"indication", "comparison", target})
        lengths.append(len(row["views"]) * tokens_per_view + characters // CHARACTERS_PER_TOKEN)
    return lengths


class LengthBuckets(Sampler[int]):
    """
    All studies in an order in which those of a batch are of similar length; batches come in random order.

    The order depends on the seed and the epoch alone, so that a run that was cut off goes on in the middle of an epoch
    exactly, and with any number of processes.

    Args:
        lengths (`Sequence[int]`): Of each study.
        batch_size (`int`): Of the batches of all processes together.
        seed (`int`): Of the orders.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed = torch.tensor(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        buckets = order.split(self.batch_size * BATCHES_PER_BUCKET)
        ordered = torch.cat([bucket[self.lengths[bucket].argsort(descending=True, stable=True)] for bucket in buckets])
        batches = list(ordered.split(self.batch_size))
        # The one that is not full comes last, or the others would be cut differently.
        last = batches.pop() if len(batches[-1]) < self.batch_size else None
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()
        if last is not None:
            yield from last.tolist()
