"""A memory of all training rows: which of them are drawn as negatives, what they are worth, and how they are kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_distill.errors import DataError
from hf_distill.losses import unit
from hf_distill.splitmix import STEP, scrambled


class Draws(nn.Module):
    """Draws other rows for each of some rows, with repetition: uniformly of those of other classes, or without classes
    of all but the row itself.

    Rows are in the order of their classes; those of a row's own class are `same[row]` in a row from `first[row]` on.
    What is drawn follows from the row and the number of batches before, on the device that the rows are on, so that a
    resumed training draws what it would have drawn.
    """

    order: Tensor
    first: Tensor
    same: Tensor

    def __init__(self, order: Tensor, first: Tensor, same: Tensor) -> None:
        super().__init__()
        for name, tensor in (("order", order), ("first", first), ("same", same)):
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def of(cls, objective: str, number: int, classes: Sequence[int] | None) -> Draws:
        """For so many rows, of these classes if they are known.

        Raises: `DataError` where a row has no negative.
        """
        rows = torch.arange(number)
        if number < 2:
            raise DataError(f"{objective}: the training data have {number} rows, and a row is compared with others.")
        if classes is None:
            return cls(rows, rows, torch.ones_like(rows))
        _, kinds, sizes = torch.unique(torch.as_tensor(classes), return_inverse=True, return_counts=True)
        if len(sizes) < 2:
            raise DataError(
                f"{objective}: all {number} training rows are of the class {classes[0]}, and negatives are drawn of "
                "other classes; set drawn='any'."
            )
        starts = sizes.cumsum(0) - sizes
        return cls(kinds.argsort(stable=True), starts[kinds], sizes[kinds])

    def forward(self, index: Tensor, number: int, batches: Tensor) -> Tensor:
        """`number` rows for each row of `index`, `[examples]` to `[examples, number]`."""
        keys = scrambled(index + scrambled(batches))
        places = torch.arange(number, device=index.device) * STEP
        same, first = self.same[index][:, None], self.first[index][:, None]
        place = (scrambled(keys[:, None] + places) & (2**63 - 1)) % (len(self.order) - same)
        return self.order[place + same * (place >= first)]


def estimated(probabilities: Tensor, share: float) -> Tensor:
    """-log P_0 / (P_0 + c + eps) - sum_{r > 0} log c / (P_r + c + eps), c the `share`, eps = 1e-7; `[examples, 1 + K]`
    to `[examples]`. The first is the positive (noise-contrastive estimation)."""
    positive, negatives = probabilities[:, 0], probabilities[:, 1:]
    return ((share + 1e-7) / positive).log1p() + ((negatives + 1e-7) / share).log1p().sum(-1)


def updated(memory: Tensor, index: Tensor, vectors: Tensor, momentum: float) -> Tensor:
    """The rows of `index` as they are after a batch: unit(momentum m_i + (1 - momentum) z_i)."""
    return unit(momentum * memory[index] + (1.0 - momentum) * vectors.to(memory.dtype))


def last_of_each(index: Tensor) -> Tensor:
    """For each place of `index`, `[examples]`, the last place with the same row.

    What is written of repeated rows is thereby the same for each of them: which one a copy keeps is not determined on
    a GPU, and processes must not come apart.
    """
    places = torch.arange(len(index), device=index.device)
    return torch.where(index[:, None] == index, places, -1).amax(1)
