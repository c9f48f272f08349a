"""Is it the same loss? First gradients against the loop's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Likeness:
    """Cosine with the loop's first gradient, and the ratio of norms."""

    cosine: float
    norm_ratio: float

    @property
    def same(self) -> bool:
        return self.cosine >= 0.99999 and abs(self.norm_ratio - 1) <= 1e-3


def likeness(file: Path, reference: Path) -> Likeness:
    """A parameter that one of the two does not train counts as a gradient of zero."""
    ours, theirs = (torch.load(path, mmap=True) for path in (file, reference))
    product = squares = reference_squares = 0.0
    for name in ours.keys() | theirs.keys():
        a, b = (side[name].flatten().double() if name in side else None for side in (ours, theirs))
        squares += float(a @ a) if a is not None else 0.0
        reference_squares += float(b @ b) if b is not None else 0.0
        product += float(a @ b) if a is not None and b is not None else 0.0
    return Likeness(product / math.sqrt(squares * reference_squares), math.sqrt(squares / reference_squares))
