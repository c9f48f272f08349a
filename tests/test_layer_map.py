"""Layer maps against the published pairs, and everything that is no map."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill.errors import IncompatiblePair
from hf_distill.layer_map import NAMES, LayerMap, explicit_pairs


@pytest.mark.parametrize(
    ("name", "student", "teacher", "pairs"),
    [
        ("uniform", 2, 4, [(0, 0), (1, 2), (2, 4)]),
        ("uniform", 3, 3, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ("spread", 3, 12, [(0, 0), (1, 4), (2, 8), (3, 12)]),
        ("spread", 2, 5, [(0, 0), (1, 3), (2, 5)]),
        ("spread", 4, 3, [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3)]),
        ("one_to_one", 3, 3, [(1, 1), (2, 2), (3, 3)]),
        ("first", 3, 12, [(1, 1), (2, 2), (3, 3)]),
        ("last", 3, 12, [(1, 10), (2, 11), (3, 12)]),
        ("final", 6, 12, [(6, 12)]),
        ("final", 6, 2, [(6, 2)]),
        ("middle", 3, 12, [(2, 6)]),
        ("middle", 1, 1, [(1, 1)]),
        ("pkd_skip", 6, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ("pkd_skip", 5, 12, [(1, 2), (2, 4), (3, 6), (4, 8)]),
        ("pkd_last", 3, 12, [(1, 10), (2, 11)]),
    ],
)
def test_names(name: str, student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    assert list(LayerMap.resolve(name, student, teacher)) == pairs


@pytest.mark.parametrize("pairs", [[(0, 0)], [[1, 2], [2, 2]], ((1, 1), (1, 2)), LayerMap([(2, 4)])])
def test_explicit_pairs(pairs: Any) -> None:
    assert list(LayerMap.resolve(pairs, 2, 4)) == [tuple(pair) for pair in pairs]


@pytest.mark.parametrize("name", ["first", "last", "pkd_skip", "pkd_last"])
@pytest.mark.parametrize("teacher", [1, 2, 3])
def test_a_shallow_teacher_is_refused(name: str, teacher: int) -> None:
    """Not paired with the embedding output, nor with nothing."""
    with pytest.raises(IncompatiblePair, match=f"'{name}': the teacher has {teacher} layers, fewer than .* 4"):
        LayerMap.resolve(name, 4, teacher)


@pytest.mark.parametrize("teacher", [2, 4])
def test_one_to_one_needs_equal_depths(teacher: int) -> None:
    words = f"the student has 3 layers, the teacher {teacher}; it pairs equally deep models. Use 'uniform'"
    with pytest.raises(IncompatiblePair, match=words):
        LayerMap.resolve("one_to_one", 3, teacher)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("student", "teacher"), [(0, 4), (2, 0), (0, 0)])
def test_models_without_layers_have_no_map(name: str, student: int, teacher: int) -> None:
    with pytest.raises(IncompatiblePair, match=f"needs layers on both sides; the student has {student}, .* {teacher}"):
        LayerMap.resolve(name, student, teacher)


@pytest.mark.parametrize(
    ("layer_map", "words"),
    [
        ("uniform", "5 teacher layers are not a multiple of 3 student layers; use 'spread'"),
        ("lst", "unknown layer_map 'lst'; the names are uniform, spread, one_to_one, first, last, final, middle, "),
        ([], "pairs no layers"),
        ([(4, 1)], "student layer 4 with teacher layer 1, but the student has layers 0 to 3 and the teacher 0 to 5"),
        ([(1, 6)], "student layer 1 with teacher layer 6"),
        ([(-1, 2)], "student layer -1"),
        ([(1, 2), (1, 2)], "distinct and ordered"),
        ([(2, 2), (1, 2)], "distinct and ordered"),
        ([1, 2], "1 is not a pair"),
        ([(1, 2, 3)], r"\(1, 2, 3\) is not a pair"),
        ([(1, 2.0)], r"\(1, 2.0\) is not a pair"),
        ([(True, 2)], r"\(True, 2\) is not a pair"),
        (["12"], "'12' is not a pair"),
        ([{1: 2, 3: 4}], "is not a pair"),
        (3, "layer_map is 3; it may be uniform, .* or a list of pairs"),
        (None, "layer_map is None"),
        ({1: 2}, "layer_map is {1: 2}"),
        (b"ab", "layer_map is b'ab'"),
    ],
)
def test_what_is_no_map(layer_map: Any, words: str) -> None:
    with pytest.raises(IncompatiblePair, match=words):
        LayerMap.resolve(layer_map, 3, 5)


def test_pkd_of_one_layer_pairs_nothing() -> None:
    for name in ("pkd_skip", "pkd_last"):
        with pytest.raises(IncompatiblePair, match="pairs no layers of a student with 1"):
            LayerMap.resolve(name, 1, 12)


def test_is_a_sequence_of_pairs() -> None:
    found = LayerMap([(1, 2), (2, 4)])
    assert (len(found), found[0], found[-1], found[:1]) == (2, (1, 2), (2, 4), ((1, 2),))
    assert found == LayerMap([(1, 2), (2, 4)])
    assert hash(found) == hash(LayerMap([(1, 2), (2, 4)]))
    assert found != LayerMap([(1, 2)])
    assert found != [(1, 2), (2, 4)]
    assert repr(found) == "LayerMap([(1, 2), (2, 4)])"
    assert (2, 4) in found


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], r"layer_map \[\] pairs no layers"),
        ([(-1, 2)], "student layer -1 with teacher layer 2; layers count from 0, the embedding output"),
        ([(1, 2), (1, 2)], "distinct and ordered"),
        ([(2, 2), (1, 2)], "distinct and ordered"),
    ],
)
def test_what_no_depth_makes_a_map_is_refused_without_one(pairs: Any, words: str) -> None:
    with pytest.raises(IncompatiblePair, match=words):
        explicit_pairs(pairs)


def test_explicit_pairs_are_plain() -> None:
    assert explicit_pairs([[1, 2], (3, 4)]) == [(1, 2), (3, 4)]
