"""Which student layer learns from which teacher layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from hf_distill.errors import IncompatiblePair

Pairs = tuple[tuple[int, int], ...]


def _deep_enough(name: str, student: int, teacher: int) -> None:
    if teacher < student:
        raise IncompatiblePair(
            f"layer_map {name!r}: the teacher has {teacher} layers, fewer than the student's {student}; use 'spread' "
            "or give the pairs."
        )


def _uniform(student: int, teacher: int) -> Pairs:
    if teacher % student:
        raise IncompatiblePair(
            f"layer_map 'uniform': {teacher} teacher layers are not a multiple of {student} student layers; "
            "use 'spread' or give the pairs."
        )
    return tuple((i, i * teacher // student) for i in range(student + 1))


def _spread(student: int, teacher: int) -> Pairs:
    return tuple((i, math.floor(i * teacher / student + 0.5)) for i in range(student + 1))


def _one_to_one(student: int, teacher: int) -> Pairs:
    if teacher != student:
        raise IncompatiblePair(
            f"layer_map 'one_to_one': the student has {student} layers, the teacher {teacher}; it pairs equally deep "
            "models. Use 'uniform' or 'spread', or give the pairs."
        )
    return tuple((i, i) for i in range(1, student + 1))


def _first(student: int, teacher: int) -> Pairs:
    _deep_enough("first", student, teacher)
    return tuple((i, i) for i in range(1, student + 1))


def _last(student: int, teacher: int) -> Pairs:
    _deep_enough("last", student, teacher)
    return tuple((i, teacher - student + i) for i in range(1, student + 1))


def _middle(student: int, teacher: int) -> Pairs:
    return (((student + 1) // 2, (teacher + 1) // 2),)


def _pkd_skip(student: int, teacher: int) -> Pairs:
    _deep_enough("pkd_skip", student, teacher)
    return tuple((j, j * (teacher // student)) for j in range(1, student))


def _pkd_last(student: int, teacher: int) -> Pairs:
    _deep_enough("pkd_last", student, teacher)
    return tuple((j, teacher - student + j) for j in range(1, student))


NAMES: dict[str, Callable[[int, int], Pairs]] = {
    "uniform": _uniform,
    "spread": _spread,
    "one_to_one": _one_to_one,
    "first": _first,
    "last": _last,
    "final": lambda student, teacher: ((student, teacher),),
    "middle": _middle,
    "pkd_skip": _pkd_skip,
    "pkd_last": _pkd_last,
}
"""Named maps. `uniform`, `spread` pair the embedding outputs (0, 0) too; `pkd_*` leave out the last student block."""


class LayerMap(Sequence[tuple[int, int]]):
    """Pairs (student layer, teacher layer); 0 is the embedding output, i the output of block i.

    With M student and N teacher blocks: `uniform` (i, i N/M), N a multiple of M; `spread` (i, floor(i N/M + 1/2));
    `one_to_one` (i, i), N = M; `first` (i, i); `last` (i, N - M + i); `final` (M, N); `middle` (M/2, N/2), rounded
    up; `pkd_skip` (j, j floor(N/M)) and `pkd_last` (j, N - M + j) for j < M (Sun et al., 2019, arXiv:1908.09355); or
    an explicit list of pairs.

    Raises: `IncompatiblePair` for an unknown name, a layer out of range, or a teacher shallower than the map needs.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.pairs: Pairs = tuple((int(student), int(teacher)) for student, teacher in pairs)

    @classmethod
    def resolve(
        cls, layer_map: str | Sequence[Sequence[int]], num_student_layers: int, num_teacher_layers: int
    ) -> LayerMap:
        """The pairs of a name or of an explicit list, checked against both depths."""
        if isinstance(layer_map, str):
            if layer_map not in NAMES:
                raise IncompatiblePair(
                    f"unknown layer_map {layer_map!r}; the names are {', '.join(NAMES)}, or give pairs."
                )
            if num_student_layers < 1 or num_teacher_layers < 1:
                raise IncompatiblePair(
                    f"layer_map {layer_map!r} needs layers on both sides; the student has {num_student_layers}, the "
                    f"teacher {num_teacher_layers}."
                )
            found = cls(NAMES[layer_map](num_student_layers, num_teacher_layers))
        else:
            found = cls(explicit_pairs(layer_map))
        found._check(layer_map, num_student_layers, num_teacher_layers)
        return found

    def _check(self, layer_map: object, num_student_layers: int, num_teacher_layers: int) -> None:
        if not self.pairs:
            raise IncompatiblePair(f"layer_map {layer_map!r} pairs no layers of a student with {num_student_layers}.")
        for student, teacher in self.pairs:
            if not (0 <= student <= num_student_layers and 0 <= teacher <= num_teacher_layers):
                raise IncompatiblePair(
                    f"layer_map {layer_map!r} pairs student layer {student} with teacher layer {teacher}, but the "
                    f"student has layers 0 to {num_student_layers} and the teacher 0 to {num_teacher_layers}."
                )

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | Pairs:
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerMap) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"LayerMap({list(self.pairs)})"


def explicit_pairs(layer_map: object) -> list[tuple[int, int]]:
    """The pairs of an explicit list, not yet checked against any depth.

    Raises: `IncompatiblePair` for anything but a list of pairs of whole numbers from 0 on, distinct and ordered by
    student layer.
    """
    if not isinstance(layer_map, Sequence) or isinstance(layer_map, str | bytes):
        raise IncompatiblePair(f"layer_map is {layer_map!r}; it may be {', '.join(NAMES)}, or a list of pairs.")
    for pair in layer_map:
        if not _is_pair(pair):
            raise IncompatiblePair(
                f"layer_map: {pair!r} is not a pair of whole numbers (student layer, teacher layer)."
            )
    pairs = [(pair[0], pair[1]) for pair in layer_map]
    if not pairs:
        raise IncompatiblePair(f"layer_map {layer_map!r} pairs no layers; give at least one pair, or a name.")
    for student, teacher in pairs:
        if min(student, teacher) < 0:
            raise IncompatiblePair(
                f"layer_map pairs student layer {student} with teacher layer {teacher}; layers count from 0, the "
                "embedding output."
            )
    if len(set(pairs)) != len(pairs) or pairs != sorted(pairs, key=lambda pair: pair[0]):
        raise IncompatiblePair(f"layer_map {layer_map!r}: pairs must be distinct and ordered by student layer.")
    return pairs


def _is_pair(pair: object) -> bool:
    if not isinstance(pair, Sequence) or len(pair) != 2:
        return False
    return all(isinstance(layer, int) and not isinstance(layer, bool) for layer in pair)
