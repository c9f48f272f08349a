"""How alike what two models hold in their layers is, whatever basis each of them chose.

Gotmare et al., 2019, arXiv:1810.13243, compare a student that was trained with a teacher, and one without, layer by
layer with that teacher, and find that its knowledge went to the deeper layers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import DataError, IncompatiblePair

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

ENOUGH = 5
"""Rows for each dimension below which canonical correlations are high by chance."""

MAX_ROWS = 4096
"""The most tokens that are compared; more cost time and tell no more."""


@dataclass(frozen=True)
class LayerSimilarity:
    """`cka` and `svcca` `[layers of the one + 1, layers of the other + 1]`, from the embeddings up; `rows` is the
    number of tokens that were compared."""

    cka: Floats
    svcca: Floats
    rows: int

    def markdown(self, one: str = "student", other: str = "teacher") -> str:
        """A table with a row for each layer of the one: its CKA and SVCCA with every layer of the other."""
        numbers = range(self.cka.shape[1])
        head = f"| {one} \\ {other} | " + " | ".join("embeddings" if not n else str(n) for n in numbers) + " |"
        lines = [head, "| --- |" + " ---: |" * len(numbers)]
        for layer, values in enumerate(zip(self.cka, self.svcca, strict=True)):
            cells = " | ".join(f"{cka:.3f} / {svcca:.3f}" for cka, svcca in zip(*values, strict=True))
            lines.append(f"| {layer or 'embeddings'} | {cells} |")
        return "\n".join([*lines, "", f"Linear CKA / SVCCA of the layers' outputs at {self.rows} tokens."])


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """|Y'X|_F^2 / (|X'X|_F |Y'Y|_F) of centred X `[rows, width]` and Y `[rows, width of its own]`: 1 where one is the
    other turned and scaled (Kornblith et al., 2019, arXiv:1905.00414).

    Errors: DataError for shapes that do not fit, fewer than 2 rows, NaN, or activations that are the same in all rows.
    """
    first, second = _centred("linear_cka", x, y)
    return float(_squares(second.T @ first) / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)))


def svcca(x: ArrayLike, y: ArrayLike, threshold: float = 0.99) -> float:
    """The mean canonical correlation of X `[rows, width]` and Y `[rows, width of its own]` within the fewest principal
    directions of each that hold `threshold` of its variance (Raghu et al., 2017, arXiv:1706.05806).

    With few rows correlations are high by chance, and 1 where there are no more rows than directions; below 5 rows for
    each dimension a warning says so.

    Errors: as `linear_cka`, and DataError for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise DataError(f"svcca: threshold is {threshold}; it must be above 0 and at most 1.")
    first, second = _centred("svcca", x, y)
    rows, width = len(first), max(first.shape[1], second.shape[1])
    if rows <= ENOUGH * width:
        logger.warning(
            "svcca: %d rows for activations %d wide; correlations are high by chance. Give more than %d.",
            rows, width, ENOUGH * width,
        )  # fmt: skip
    found = np.linalg.svd(_directions(first, threshold).T @ _directions(second, threshold), compute_uv=False)
    return float(np.clip(found, 0.0, 1.0).mean())


def layer_similarity(one: nn.Module, other: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> LayerSimilarity:
    """CKA and SVCCA between all layers of two models that read the same tokens, at the real tokens of the batches, of
    which the first 4,096 count. In eval mode, without gradients.

    Raises: `IncompatiblePair` for models with two stacks of layers, or of an unknown family; DataError for no text.
    """
    read = list(batches)
    shown = [_states(model, read) for model in (one, other)]
    rows = len(shown[0][0])
    if rows < 2:
        raise DataError(f"layer_similarity: the batches hold {rows} tokens; give texts.")
    cka, correlations = (
        np.array([[measure(x, y) for y in shown[1]] for x in shown[0]]) for measure in (linear_cka, svcca)
    )
    return LayerSimilarity(cka, correlations, rows)


def layer_cka(
    one: nn.Module, other: nn.Module, batches: Iterable[Mapping[str, Tensor]], most: int = MAX_ROWS
) -> tuple[Floats, int]:
    """The `cka` of `layer_similarity` alone, at the first `most` tokens, and how many these are. It is computed from
    the tokens' products with each other, <XX', YY'> / (|XX'| |YY'|), which costs each layer once and not each pair.

    Raises: as `layer_similarity`.
    """
    read = list(batches)
    shown = [_states(model, read, most) for model in (one, other)]
    rows = len(shown[0][0])
    if rows < 2:
        raise DataError(f"layer_cka: the batches hold {rows} tokens; give texts.")
    ours = [_products(x) for x in shown[0]]
    columns = []
    for y in shown[1]:
        theirs = _products(y)
        columns.append([float(np.vdot(k, theirs)) for k in ours])
    return np.array(columns).T, rows


def _products(x: Floats) -> Floats:
    """XX' of centred X `[rows, width]`, divided by its norm."""
    centred, _ = _centred("layer_cka", x, x)
    found: Floats = centred @ centred.T
    return found / np.linalg.norm(found)


def _states(model: nn.Module, batches: list[Mapping[str, Tensor]], most: int = MAX_ROWS) -> list[Floats]:
    """The hidden states of every layer at the first real tokens, each `[tokens, width]`."""
    anatomy = Anatomy.of(model)
    if set(anatomy.shape.stacks) != {""}:
        raise IncompatiblePair(f"layer_similarity: {anatomy.shape.family!r} has no single stack of layers.")
    layers = range(anatomy.shape.stack().num_hidden_layers + 1)
    capture = Capture(anatomy, [Signal("hidden", layer) for layer in layers], "teacher")
    modes = [(module, module.training) for module in model.modules()]
    found: list[list[Tensor]] = [[] for _ in layers]
    left = most
    model.eval()
    try:
        with closing(capture), torch.no_grad():
            for batch in batches:
                _, activations = capture({name: value.to(anatomy.base.device) for name, value in batch.items()})
                real = activations.mask.bool()  # type: ignore[union-attr]
                for layer in layers:
                    found[layer].append(activations.hidden[layer][real][:left].cpu().double())
                left -= len(found[0][-1])
                if not left:
                    break
    finally:
        for module, training in modes:
            module.training = training
    return [torch.cat(parts).numpy() if parts else np.zeros((0, 1)) for parts in found]


def _centred(name: str, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    found = [np.asarray(values, dtype=np.float64) for values in (x, y)]
    shapes = [list(values.shape) for values in found]
    if any(values.ndim != 2 for values in found) or len(found[0]) != len(found[1]) or len(found[0]) < 2:
        raise DataError(f"{name}: activations {shapes[0]} and {shapes[1]}; expected [rows, width] of the same rows.")
    if not all(np.isfinite(values).all() for values in found):
        raise DataError(f"{name}: activations {shapes[0]} and {shapes[1]} hold NaN or infinite values.")
    for values in found:
        if (values == values[0]).all():
            raise DataError(f"{name}: activations {list(values.shape)} are the same in all rows, so nothing varies.")
    return found[0] - found[0].mean(axis=0), found[1] - found[1].mean(axis=0)


def _squares(values: Floats) -> float:
    return float(np.square(values).sum())


def _directions(centred: Floats, threshold: float) -> Floats:
    """Orthonormal columns `[rows, kept]` that span the leading principal directions."""
    vectors, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    shares = np.cumsum(np.square(sizes)) / _squares(sizes)
    kept = int(np.searchsorted(shares, threshold - 1e-12)) + 1
    return vectors[:, : min(kept, len(sizes))]
