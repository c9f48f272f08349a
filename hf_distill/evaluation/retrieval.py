"""How well sentence vectors find and order texts: similarity against gold scores, and search in a small corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_distill.errors import NonFiniteLoss
from hf_distill.sentences import COSINE, DOT

Vectors = NDArray[np.floating[Any]]

DEPTH = 10
"""Texts of a ranking that are looked at."""

NAMES = ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10")
"""The values of a query, in the order of `retrieval`'s columns."""


def unit_rows(vectors: Vectors) -> NDArray[np.float32]:
    """The vectors `[texts, width]`, each of length 1; a vector 0 stays. Computed in float32 at least.

    Raises: as `finite_rows`.
    """
    wide = finite_rows(vectors)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    found: NDArray[np.float32] = (wide / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return found


def comparable(vectors: Vectors, similarity: str) -> NDArray[np.float32]:
    """The vectors `[texts, width]` so that the product of two of them is their similarity, `cosine` or `dot`.

    Raises: as `finite_rows`.
    """
    return finite_rows(vectors).astype(np.float32) if similarity == DOT else unit_rows(vectors)


def finite_rows(vectors: Vectors) -> Vectors:
    """The vectors `[texts, width]`, in float32 at least.

    Raises: `NonFiniteLoss` for one that is no number.
    """
    broken = int((~np.isfinite(vectors)).any(axis=1).sum())
    if broken:
        raise NonFiniteLoss(f"evaluation: the vectors of {broken} of {len(vectors)} texts are NaN or infinite.")
    return vectors.astype(np.promote_types(vectors.dtype, np.float32))


def retrieval(
    queries: Vectors,
    corpus: Vectors,
    relevant: Sequence[Sequence[int]],
    *,
    similarity: str = COSINE,
    chunk: int = 256,
) -> NDArray[np.float64]:
    """nDCG@10, MRR@10, recall@1 and recall@10 of each query, `[queries, 4]`.

    Texts of the corpus are ordered by their `similarity` to the query, equal ones by their number. With g_i = 1 where
    the i-th text is one of the R that are `relevant` to the query, else 0: nDCG = sum_i g_i / log2(i + 1) over the
    sum of 1 / log2(i + 1) of the first min(R, 10) places; MRR = 1 / i of the first that is relevant, 0 if none of the
    ten is; recall@k = (sum_{i<=k} g_i) / R. `chunk` queries are compared at a time: the memory is [chunk, corpus].
    """
    ours, theirs = (comparable(vectors, similarity) for vectors in (queries, corpus))
    depth = min(DEPTH, len(theirs))
    gains = 1.0 / np.log2(np.arange(DEPTH) + 2.0)
    found = np.zeros((len(ours), len(NAMES)))
    for start in range(0, len(ours), chunk):
        best = _best(ours[start : start + chunk] @ theirs.T, depth)
        for row, order in enumerate(best, start=start):
            wanted = relevant[row]
            hits = np.isin(order, wanted)
            ideal = gains[: min(len(wanted), DEPTH)].sum()
            places = np.flatnonzero(hits)
            found[row] = (
                gains[:depth][hits].sum() / ideal,
                1.0 / (places[0] + 1) if len(places) else 0.0,
                hits[:1].sum() / len(wanted),
                hits.sum() / len(wanted),
            )
    return found


def top_one(queries: Vectors, corpus: Vectors, *, similarity: str = COSINE, chunk: int = 256) -> NDArray[np.int64]:
    """The number of the nearest text of the corpus for each query."""
    ours, theirs = (comparable(vectors, similarity) for vectors in (queries, corpus))
    parts = [_best(ours[start : start + chunk] @ theirs.T, 1)[:, 0] for start in range(0, len(ours), chunk)]
    return np.concatenate(parts)


def correlation(pairs: NDArray[np.float64]) -> float:
    """Pearson's correlation of two columns, `[rows, 2]`; 0.0 where one of them is constant."""
    x, y = np.ascontiguousarray(pairs.T)
    if min(np.ptp(x), np.ptp(y)) == 0:  # less their mean, rounding may leave them not 0 but a constant
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt(x @ x) * np.sqrt(y @ y)
    return float(np.clip(x @ y / size, -1.0, 1.0)) if size > 0 else 0.0


def _best(similarities: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """The `depth` largest of each row, the largest first, equal ones by their place."""
    width = similarities.shape[1]
    if depth < width:
        least = np.partition(similarities, width - depth, axis=1)[:, width - depth]
    else:
        least = similarities.min(axis=1)
    found = np.empty((len(similarities), depth), dtype=np.int64)
    for row, values in enumerate(similarities):
        candidates = np.flatnonzero(values >= least[row])
        found[row] = candidates[np.argsort(-values[candidates], kind="stable")][:depth]
    return found
