"""Labels of other studies, from which the transport loss tells those of a study."""

import zlib
from typing import Any

import numpy as np

COUNT = 4
TRIES = 8


class OtherStates:
    """
    Gives each study the labels of some others, always the same: they come from its id and not from its batch, so that
    the loss is that of any batch size and number of processes.

    Args:
        labels (`np.ndarray` of shape `[N, m]`): State codes of the training studies.
    """

    def __init__(self, labels: np.ndarray):
        self.labels = labels

    def of(self, study: dict[str, Any]) -> np.ndarray:
        """State codes `[4, m]` of studies whose labels are other ones; the study's own where none was met."""
        own = np.asarray(study["disease_labels"])
        generator = np.random.default_rng(zlib.crc32(study["id"].encode()))
        met = self.labels[generator.integers(len(self.labels), size=COUNT * TRIES)]
        others = met[(met != own).any(-1)][:COUNT]
        return np.concatenate([others, np.tile(own, (COUNT - len(others), 1))])
