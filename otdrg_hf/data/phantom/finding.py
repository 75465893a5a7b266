"""One finding of a study, before it is drawn or written: what, where, and how obvious."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otdrg_hf.data.phantom.canvas import stream
from otdrg_hf.labeling.labels import LABELS


@dataclass(frozen=True)
class Finding:
    """A sign to draw and to report. `place` and `kind` are words of the label's own vocabulary."""

    label: str
    severity: float  # 0 barely visible .. 1 gross
    side: str | None = None  # "left", "right", "bilateral" or None
    place: str = ""
    kind: str = ""
    uncertain: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides to draw on."""
        return ("right", "left") if self.side in ("bilateral", None) else (self.side,)

    def rng(self, split: str, seed: int, view: int) -> np.random.Generator:
        """Chance for this sign on this view alone; the kind tells several devices apart."""
        return stream(split, seed, 10 + LABELS.index(self.label), view, sum(self.kind.encode()))
