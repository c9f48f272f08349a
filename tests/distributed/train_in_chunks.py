"""Run by torchrun: what `train_every_objective` does, with every vocabulary taken in chunks of a few rows."""

from __future__ import annotations

from hf_distill.chunks import Sizes
from hf_distill.objectives import pair
from tests.distributed import train_every_objective


def take_chunks() -> None:
    """Every vocabulary counts as large."""
    pair.LARGE_VOCABULARY = 1
    Sizes.of = classmethod(lambda cls, *_: cls(6, 2))  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    take_chunks()
    train_every_objective.main()
