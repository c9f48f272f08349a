"""Search and similarity by sentence vectors, against definitions written out in loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hf_distill.errors import NonFiniteLoss
from hf_distill.evaluation.retrieval import retrieval, top_one, unit_rows

Similarity = Callable[[np.ndarray, np.ndarray], float]

GENERATOR = np.random.default_rng(3)
QUERIES, CORPUS = GENERATOR.normal(size=(23, 5)), GENERATOR.normal(size=(31, 5))
RELEVANT = [sorted({(7 * i) % 31, (3 * i + 1) % 31, *([i] if i % 2 else [])}) for i in range(23)]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def dot(one: np.ndarray, other: np.ndarray) -> float:
    return float(sum(a * b for a, b in zip(one, other, strict=True)))


def slowly(query: np.ndarray, wanted: list[int], similarity: Similarity) -> tuple[float, float, float, float]:
    """nDCG@10, MRR@10, recall@1 and recall@10 of one query, as their definitions say."""
    order = sorted(range(len(CORPUS)), key=lambda text: (-similarity(query, CORPUS[text]), text))[:10]
    gained = sum(1 / math.log2(place + 1) for place, text in enumerate(order, 1) if text in wanted)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(wanted), 10) + 1))
    first = next((place for place, text in enumerate(order, 1) if text in wanted), None)
    share = sum(text in wanted for text in order) / len(wanted)
    return gained / ideal, 0.0 if first is None else 1 / first, (order[0] in wanted) / len(wanted), share


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("similarity", [cosine, dot])
def test_searches_are_judged_as_defined(chunk: int, similarity: Similarity) -> None:
    expected = [slowly(query, wanted, similarity) for query, wanted in zip(QUERIES, RELEVANT, strict=True)]
    name = similarity.__name__
    found = retrieval(QUERIES, CORPUS, RELEVANT, similarity=name, chunk=chunk)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    nearest = [max(range(len(CORPUS)), key=lambda text: similarity(query, CORPUS[text])) for query in QUERIES]
    assert top_one(QUERIES, CORPUS, similarity=name, chunk=chunk).tolist() == nearest


def test_the_two_similarities_find_other_texts() -> None:
    found = [top_one(QUERIES, CORPUS, similarity=name).tolist() for name in ("cosine", "dot")]
    assert found[0] != found[1]
    assert top_one(QUERIES, CORPUS).tolist() == found[0]


def test_a_corpus_of_fewer_than_ten_texts_and_equal_ones() -> None:
    """Of texts that are equally near the first comes first."""
    corpus = np.asarray([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    found = retrieval(np.asarray([[1.0, 0.0]]), corpus, [[2]])
    np.testing.assert_allclose(found, [[1 / math.log2(3), 0.5, 0.0, 1.0]])
    assert top_one(np.asarray([[1.0, 0.0]]), corpus).tolist() == [1]


def test_vectors_that_are_no_numbers_are_refused_and_zeros_stay() -> None:
    np.testing.assert_array_equal(unit_rows(np.asarray([[3.0, 4.0], [0.0, 0.0]])), np.float32([[0.6, 0.8], [0, 0]]))
    long = np.full((1, 4), 200.0, dtype=np.float16)  # its square is beyond float16
    np.testing.assert_array_equal(unit_rows(long), np.full((1, 4), 0.5, dtype=np.float32))
    short = np.full((1, 4), 1e-4, dtype=np.float16)  # and that of these is 0 there
    np.testing.assert_allclose(unit_rows(short), np.full((1, 4), 0.5), rtol=1e-6)
    with pytest.raises(NonFiniteLoss, match=r"the vectors of 2 of 3 texts are NaN or infinite"):
        unit_rows(np.asarray([[1.0, np.nan], [np.inf, 0.0], [1.0, 1.0]]))
