"""What a batch tells of a teacher's hypotheses: texts that it wrote for one source, each with the logarithm of its
probability.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.errors import DataError
from hf_distill.losses import at_least_float32
from hf_distill.tasks import Batch

SCORES = "hypothesis_scores"
"""The column `[rows, n]` of the logarithms of the teacher's probabilities of all hypotheses of a row's source, -inf
behind the last one."""
PLACE = "hypothesis"
"""The column `[rows]` that says which of these the row's own labels are, counted from 0."""
TEXTS = "hypotheses"
"""The column `[rows, n, length]` of the hypotheses themselves as labels, -100 behind the last symbol of each."""

WEIGHTS = ("teacher", "uniform", "best")


def hypothesis_weights(scores: Tensor, weights: str = "teacher", temperature: float = 1.0) -> Tensor:
    """The weights of hypotheses `[..., n]` by their scores log P, in at least float32: softmax(log P / temperature)
    for `teacher`, 1 / n for `uniform`, 1 for the first of the best and 0 for the others for `best`.

    What has the score -inf is left out and weighs 0; where nothing is left, all weigh 0.
    """
    scores = at_least_float32(scores)
    there = scores > -torch.inf
    if weights == "uniform":
        return there.to(scores.dtype) / there.sum(-1, keepdim=True).clamp(min=1)
    if weights == "best":
        best = torch.arange(scores.shape[-1], device=scores.device) == scores.argmax(-1, keepdim=True)
        return (best & there).to(scores.dtype)
    finite = torch.where(there.any(-1, keepdim=True), scores, 0.0)
    return torch.softmax(finite / temperature, -1).masked_fill(~there, 0.0)


def column(batch: Batch, name: str, objective: str) -> Tensor:
    """A column of the batch. Raises: `DataError` where it is not there, naming what makes it."""
    if name not in batch:
        raise DataError(
            f"{objective}: the batch has no column {name!r}, only {', '.join(batch)}. Make the rows of a teacher's "
            "hypotheses (data.hypotheses, in a recipe targets: all), and keep this column in what the collator "
            "returns."
        )
    return batch[name]
