"""How alike the geometry of the batch is in both models, up to rotation and scale."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError
from hf_distill.losses import blank
from hf_distill.objectives.batch_relations import BatchRelation
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_flag
from hf_distill.pooling import SENTENCE
from hf_distill.tasks import Batch

FLAT = "the HSIC of one side with itself is 0 or below, so a batch has the value 1 and no gradient"


@register("cka")
class CKA(BatchRelation):
    """Linear centred kernel alignment (Kornblith, Norouzi, Lee & Hinton, 2019, arXiv:1905.00414).

    L = 1 - HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = S S^T, L = T T^T, a row of S and T for each text, or with
    `rows="tokens"` for each real token of the batch. It is blind to rotation, scale and offset, so widths may differ
    and nothing is learned. `unbiased` (Nguyen, Raghu & Kornblith, 2021, arXiv:2010.15327): with r rows, and K~, L~
    without their diagonals, HSIC = (tr(K~ L~) + (1'K~1)(1'L~1) / ((r-1)(r-2)) - 2/(r-2) 1'K~L~1) / (r (r-3)), r >= 4.
    Otherwise HSIC = tr(K H L H) / (r-1)^2, which is near 1 for unrelated vectors where rows are not many times the
    width. Where one side's HSIC is 0 (equal vectors), L is 1 and has no gradient.

    Columns are centred first, which changes nothing but rounding. The ratio of a batch is not that of the data set.

    Reads: hidden[i] of both, [batch, length, width], pooled to [batch, width] (`pool`) for `rows="pooled"`.
    Counts: batches, of 4 examples or more (biased: 3; of tokens: 1); a gradient is of the examples of a micro-batch
    alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token; `DistillationError` for `gather` or `pool="sentence"` with rows of tokens.
    """

    smallest_batch = 4
    advised_batch = 16
    citation = """@inproceedings{kornblith2019similarity,
  title = {Similarity of Neural Network Representations Revisited},
  author = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {ICML},
  year = {2019},
  eprint = {1905.00414},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        rows: str = "pooled",
        unbiased: bool = True,
        pool: str = "mean",
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_choice(self.name, "rows", rows, ("pooled", "tokens"))
        check_flag(self.name, "unbiased", unbiased)
        if gather and rows == "tokens":
            raise DistillationError(
                f"{self.name}: gather needs as many rows of every process, and rows='tokens' has one a token; set "
                "gather=False or rows='pooled'."
            )
        if pool == SENTENCE and rows == "tokens":
            raise DistillationError(
                f"{self.name}: rows='tokens' compares states of tokens, and pool='sentence' has one vector a text; "
                "set rows='pooled', or another pool."
            )
        self.rows = rows
        self.unbiased = unbiased
        self.smallest_batch = 1 if rows == "tokens" else 4 if unbiased else 3

    @property
    def joins_documents(self) -> str:
        return "" if self.rows == "tokens" else super().joins_documents

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if self.rows == "pooled":
            return super().forward(student, teacher, batch)
        real = self.shown_mask(student).bool().flatten()
        values = [
            self._dissimilarity(ours.flatten(0, 1), theirs.flatten(0, 1), real)
            for ours, theirs in self.tensors(student, teacher)
        ]
        return sum(values[1:], values[0])

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return self._dissimilarity(student, teacher, torch.ones_like(student[:, 0], dtype=torch.bool))

    def _dissimilarity(self, student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
        """1 - CKA of the rows that are real."""
        x, y = _standard(student, real), _standard(teacher, real)
        width, count = max(x.shape[-1], y.shape[-1]), real.sum()
        if not self.unbiased:
            self.remark(
                count <= 4 * width,
                f"the biased form says little of fewer rows than 4 times the width, {width}: it is near 1 for "
                "unrelated vectors, too; set unbiased=True.",
            )
        products = _of_features if len(real) > width else _of_grams
        between, ours, theirs = products(x, y, count.to(x.dtype), real, self.unbiased)
        smallest = torch.finfo(x.dtype).eps
        fewest = 4 if self.unbiased else 2
        enough = (ours > smallest) & (theirs > smallest) & (count >= fewest)
        self.remark((count >= fewest) & ~enough, FLAT)
        norms = torch.where(enough, ours, 1.0).sqrt() * torch.where(enough, theirs, 1.0).sqrt()
        return torch.where(enough, 1.0 - between / norms, 1.0)


def _standard(vectors: Tensor, real: Tensor) -> Tensor:
    """Rows with centred columns, zeros where they are not real, in a scale where all squares add up to 1.

    The value does not depend on the scale, so no gradient goes through it. Rows that are equal but for rounding are 0.
    """
    clean = blank(vectors, real)
    centred = blank(clean - clean.sum(0) / real.sum().clamp(min=1), real)
    whole, squares = clean.detach().square().sum(), centred.detach().square().sum()
    differ = squares > whole * (8.0 * torch.finfo(vectors.dtype).eps) ** 2
    return torch.where(differ, centred / torch.where(differ, squares, 1.0).sqrt(), 0.0)


def _of_grams(x: Tensor, y: Tensor, count: Tensor, real: Tensor, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
    """HSIC of x with y, x with x and y with y, all times one number: for few rows, `[rows, rows]` numbers."""
    ours, theirs = (_gram(each, count, real, unbiased) for each in (x, y))
    return (ours * theirs).sum(), ours.square().sum(), theirs.square().sum()


def _gram(x: Tensor, count: Tensor, real: Tensor, unbiased: bool) -> Tensor:
    """X X^T; unbiased, without its diagonal and with rows that add up to 0 all the same: products of two such matrices
    are the unbiased HSIC, and none of it is the difference of large numbers."""
    gram = x @ x.mT
    if not unbiased:
        return gram
    squares = x.square().sum(-1)
    others, pairs = (count - 2.0).clamp(min=1.0), ((count - 1.0) * (count - 2.0)).clamp(min=1.0)
    between = gram + (squares[:, None] + squares) / others - squares.sum() / pairs
    counted = real[:, None] & real & ~torch.eye(len(real), dtype=torch.bool, device=real.device)
    return torch.where(counted, between, 0.0)


def _of_features(x: Tensor, y: Tensor, count: Tensor, real: Tensor, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same three for many rows, `[width, width]` numbers."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        whole = (left.mT @ right).square().sum()
        if not unbiased:
            return whole
        a, b = left.square().sum(-1), right.square().sum(-1)
        others, pairs = (count - 2.0).clamp(min=1.0), ((count - 1.0) * (count - 2.0)).clamp(min=1.0)
        return whole - (a * b).sum() * (count / others) + a.sum() * b.sum() / pairs

    return product(x, y), product(x, x), product(y, y)
