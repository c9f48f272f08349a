"""Every objective on pairs, batches, masks, dtypes, layer maps and numbers of heads drawn at random: against a loop in
float64 over texts without padding, and a few, whose equations are short, against loops over single numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations, Signal
from hf_distill.errors import DistillationError
from hf_distill.layer_map import NAMES
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.hypotheses import SCORES, TEXTS
from hf_distill.tasks import TASKS
from tests.contract.worlds import (
    ACROSS,
    LENGTH_AXES,
    MATCHED,
    NUM_LOGITS,
    PER_TOKEN,
    TEACHERS_WORDS,
    TWO_VOCABULARIES,
    Case,
    Scene,
    World,
    accepted,
    is_padding,
    made_batch,
    rows,
    scene,
    widened,
)
from tests.shapes import shape

FEW, MANY = 3, 60
ROUNDED = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 2e-3}
"""How far the loss of rounded signals may be from that of the same signals in float64, relatively."""


@dataclass(frozen=True)
class Drawn(World):
    """A world whose models have these layers, widths and heads."""

    student: tuple[int, int, int] = (2, 4, 2)
    teacher: tuple[int, int, int] = (2, 4, 2)

    @property
    def pair(self) -> Pair:
        across = self.size == ACROSS
        words = (NUM_LOGITS[self.task], TEACHERS_WORDS if across else NUM_LOGITS[self.task])
        sides = [
            shape(layers, width, number, heads=heads)
            for (layers, width, heads), number in zip((self.student, self.teacher), words, strict=True)
        ]
        return Pair.from_shapes(sides[0], sides[1], TASKS[self.task], across=MATCHED if across else None)


@dataclass(frozen=True)
class Sample:
    """A case, and how its batch is padded and rounded."""

    case: Case
    lengths: tuple[int, ...]
    left: int
    right: int
    dtype: torch.dtype
    seed: int


sizes = st.tuples(st.integers(1, 5), st.sampled_from([4, 8, 12]), st.sampled_from([1, 2, 4]))


@cache
def tasks_of(name: str) -> list[str]:
    """The tasks on one stack that an objective is for."""
    size = ACROSS if name in TWO_VOCABULARIES else "alike"
    return [task for task in TASKS if task != "seq2seq_lm" and accepted(Case(name, (), World(task, size)))]


@st.composite
def samples(draw: Any, name: str) -> Sample:
    """Pairs are often of one size, as many objectives ask for that."""
    student = draw(sizes)
    teacher = draw(st.one_of(st.just(student), st.just((draw(st.integers(1, 5)), *student[1:])), sizes))
    size = ACROSS if name in TWO_VOCABULARIES else "alike"
    world = Drawn(draw(st.sampled_from(tasks_of(name))), size, student=student, teacher=teacher)
    chosen: dict[str, Any] = {}
    if "layer_map" in signature(objectives.get(name)).parameters and draw(st.booleans()):
        pair = st.tuples(st.integers(1, student[0]), st.integers(1, teacher[0])).map(list)
        chosen["layer_map"] = draw(st.one_of(st.sampled_from(sorted(NAMES)), st.lists(pair, min_size=1, max_size=3)))
    lengths = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)))
    padding = draw(st.integers(0, 2)), draw(st.integers(0, 3))
    dtype = draw(st.sampled_from(list(ROUNDED)))
    return Sample(Case(name, tuple(chosen.items()), world), lengths, *padding, dtype, draw(st.integers(0, 2**16)))


def bound(case: Case) -> Objective | None:
    """The objective, or None where it refuses the pair by name; any other error passes."""
    try:
        return case.bound()
    except DistillationError:
        return None


def made_scene(sample: Sample) -> Scene:
    """Signals of the sample's dtype, as float64."""
    batch = made_batch(sample.case.world.task, torch.Generator().manual_seed(sample.seed), sample.lengths)
    exact = scene(sample.case, batch=batch, seed=sample.seed)

    def rounded(key: str | Signal, tensor: Tensor) -> Tensor:
        return tensor.to(sample.dtype).double() if isinstance(key, Signal) else tensor

    return exact.map(rounded)


def padded(made: Scene, sample: Sample) -> Scene:
    """What the trainer would show: more padding, which holds large numbers, in the sample's dtype."""
    wide = widened(made, sample.left, sample.right, value=50.0)

    def change(key: str | Signal, tensor: Tensor) -> Tensor:
        if not isinstance(key, Signal):
            return tensor
        padding = is_padding(wide, key)
        return (tensor if padding is None else tensor.masked_fill(padding, 50.0)).to(sample.dtype)

    return wide.map(change)


def alone(made: Scene, example: int, length: int) -> Scene:
    """One text without its padding."""
    one = rows(made, slice(example, example + 1))

    def cut(key: str | Signal, tensor: Tensor) -> Tensor:
        if isinstance(key, Signal):
            axes = LENGTH_AXES.get(key.field, (-2,)) if is_padding(made, key) is not None else ()
        else:
            of_tokens = key != "labels" or (made.task in PER_TOKEN and made.task != "ctc")
            axes = (-1,) if tensor.dim() == 2 and of_tokens and key not in (SCORES, TEXTS) else ()
        for axis in axes:
            tensor = tensor.narrow(axis, 0, length)
        return tensor

    return one.map(cut)


def compare(sample: Sample) -> bool:
    """Compares both ways; whether the pair was taken at all."""
    objective = bound(sample.case)
    if objective is None:
        return False
    made = made_scene(sample)
    whole = padded(made, sample)
    assert whole.count(objective) == made.count(objective)
    wide = bound(sample.case)
    assert wide is not None
    found = whole.loss(wide if sample.dtype == torch.float64 else wide.float()).double()
    expected = made.loss(objective).detach()
    parts = [alone(made, i, max(length, 1)) for i, length in enumerate(sample.lengths)]
    counted = sum(part.count(objective) for part in parts)
    if not (sample.case.relates_batch or sample.case.draws) and counted == made.count(objective):
        expected = torch.stack([part.loss(objective).detach() for part in parts]).sum()
    near = ROUNDED[sample.dtype]
    torch.testing.assert_close(found.detach(), expected, rtol=near, atol=near * max(1.0, float(expected.abs())))
    return True


@pytest.mark.parametrize("number", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", objectives.names())
def test_a_padded_batch_is_its_texts_alone_in_float64(name: str, number: int) -> None:
    taken = []

    @settings(max_examples=number, deadline=None, derandomize=True, database=None)
    @given(sample=samples(name))
    def run(sample: Sample) -> None:
        taken.append(compare(sample))

    run()
    assert any(taken), "no pair was taken"


# ---- equations over single numbers ----

Loop = Callable[[Scene, list[tuple[int, int]]], float]
"""From a scene and the pairs of layers to the sum, in Python's own numbers."""


def laws(logits: list[float], temperature: float = 1.0) -> list[float]:
    highest = max(logits)
    parts = [math.exp((value - highest) / temperature) for value in logits]
    return [part / sum(parts) for part in parts]


def kl(teacher: list[float], student: list[float]) -> float:
    return math.fsum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def square(left: list[float], right: list[float]) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def states(made: Scene, side: dict[Signal, Tensor], layer: int) -> list[list[list[float]]]:
    """The states of the real tokens of each text."""
    hidden = next(tensor for signal, tensor in side.items() if signal[:2] == ("hidden", layer))
    mask = made.batch["attention_mask"].tolist()
    return [
        [vector for vector, real in zip(text, row, strict=True) if real]
        for text, row in zip(hidden.tolist(), mask, strict=True)
    ]


def scores(made: Scene, side: dict[Signal, Tensor], layer: int) -> list[list[list[list[float]]]]:
    """The scores among the real tokens of each text, head by head."""
    found = next(tensor for signal, tensor in side.items() if signal[:2] == ("scores", layer))
    lengths = made.batch["attention_mask"].sum(1).tolist()
    return [text[:, :length, :length].tolist() for text, length in zip(found, lengths, strict=True)]


def pooled(made: Scene, side: dict[Signal, Tensor], layer: int) -> list[list[float]]:
    """The mean of each text's states, zeros where it has none."""
    width = next(tensor for signal, tensor in side.items() if signal[:2] == ("hidden", layer)).shape[-1]
    texts = states(made, side, layer)
    return [[math.fsum(v[i] for v in text) / max(len(text), 1) for i in range(width)] for text in texts]


def of_pairs(made: Scene, pairs: list[tuple[int, int]], read: Any, value: Callable[..., float]) -> float:
    """The mean over the pairs of layers of `value(student, teacher)`, summed over texts."""
    sums = [
        math.fsum(
            value(*texts) for texts in zip(read(made, made.student, a), read(made, made.teacher, b), strict=True)
        )
        for a, b in pairs
    ]
    return math.fsum(sums) / len(pairs)


def token_squares(student: list[list[float]], teacher: list[list[float]]) -> float:
    return math.fsum(square(s, t) / len(t) for s, t in zip(student, teacher, strict=True))


def token_cosines(student: list[list[float]], teacher: list[list[float]]) -> float:
    def cosine(s: list[float], t: list[float]) -> float:
        return math.fsum(a * b for a, b in zip(s, t, strict=True)) / math.hypot(*s) / math.hypot(*t)

    return math.fsum(1.0 - cosine(s, t) for s, t in zip(student, teacher, strict=True))


def token_laws(student: list[list[list[float]]], teacher: list[list[list[float]]]) -> float:
    return math.fsum(
        kl(laws(t), laws(s)) / len(teacher)
        for ours, theirs in zip(student, teacher, strict=True)
        for s, t in zip(ours, theirs, strict=True)
    )


def similarities(made: Scene, pairs: list[tuple[int, int]]) -> float:
    def grams(side: dict[Signal, Tensor], layer: int) -> list[list[float]]:
        vectors = pooled(made, side, layer)
        rows = [[math.fsum(a * b for a, b in zip(v, w, strict=True)) for w in vectors] for v in vectors]
        return [[value / math.hypot(*row) for value in row] if any(row) else row for row in rows]

    texts = len(made.batch["attention_mask"])
    sums = [
        math.fsum(square(s, t) for s, t in zip(grams(made.student, a), grams(made.teacher, b), strict=True)) / texts**2
        for a, b in pairs
    ]
    return math.fsum(sums)


LOOPS: dict[str, tuple[str, Loop]] = {
    "hidden_mse": ("masked_lm", lambda made, pairs: of_pairs(made, pairs, states, token_squares)),
    "hidden_cosine": ("masked_lm", lambda made, pairs: of_pairs(made, pairs, states, token_cosines)),
    "attention_kl": ("masked_lm", lambda made, pairs: of_pairs(made, pairs, scores, token_laws)),
    "similarity_preserving": ("encoder", similarities),
}


@st.composite
def mapped(draw: Any, task: str) -> tuple[Drawn, tuple[int, ...], list[tuple[int, int]], int]:
    """Models of one width and number of heads, texts, and pairs of their layers."""
    size = draw(st.sampled_from([(4, 1), (4, 2), (8, 4)]))
    student, teacher = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    number = draw(st.integers(1, student))
    ours = sorted(draw(st.permutations(range(1, student + 1)))[:number])
    pairs = [(layer, draw(st.integers(1, teacher))) for layer in ours]
    return (
        Drawn(task, student=(student, *size), teacher=(teacher, *size)),
        tuple(lengths),
        pairs,
        draw(st.integers(0, 99)),
    )


@pytest.mark.parametrize("number", [8, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LOOPS)
def test_states_and_scores_against_loops_over_numbers(name: str, number: int) -> None:
    task, loop = LOOPS[name]

    @settings(max_examples=number, deadline=None, derandomize=True, database=None)
    @given(drawn=mapped(task))
    def run(drawn: Any) -> None:
        world, lengths, pairs, seed = drawn
        case = Case(name, (("layer_map", [list(pair) for pair in pairs]),), world)
        batch = made_batch(task, torch.Generator().manual_seed(seed), lengths)
        made = scene(case, batch=batch, seed=seed)
        found = float(made.loss(case.bound()))
        assert found == pytest.approx(loop(made, pairs), rel=1e-9, abs=1e-12)

    run()


answers = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=2, max_size=2)


@pytest.mark.parametrize("number", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_soft_targets_and_labels_against_loops_over_numbers(number: int) -> None:
    @settings(max_examples=number, deadline=None, derandomize=True, database=None)
    @given(
        texts=st.lists(answers, min_size=1, max_size=5),
        labels=st.lists(st.sampled_from([0, 1, 2, -100]), min_size=5, max_size=5),
        temperature=st.floats(0.25, 8),
    )
    def run(texts: list[list[list[float]]], labels: list[int], temperature: float) -> None:
        student, teacher = (torch.tensor([text[side] for text in texts], dtype=torch.float64) for side in (0, 1))
        batch = {
            "input_ids": torch.ones(len(texts), 1, dtype=torch.long),
            "labels": torch.tensor(labels[: len(texts)]),
        }
        pair = Pair.from_shapes(shape(num_logits=3), shape(num_logits=3), TASKS["single_label"])
        soft, hard = objectives.make("soft_targets", {"temperature": temperature}), objectives.make("labels", {})
        for objective in (soft, hard):
            objective.bind(pair)
        shown = Activations(logits=student), Activations(logits=teacher)
        expected = math.fsum(temperature**2 * kl(laws(t, temperature), laws(s, temperature)) for s, t in texts)
        assert float(soft(*shown, batch)) == pytest.approx(expected, rel=1e-8, abs=1e-9)
        known = [(text[0], label) for text, label in zip(texts, labels, strict=False) if label >= 0]
        expected = -math.fsum(math.log(laws(logits)[label]) for logits, label in known)
        assert float(hard(*shown, batch)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert int(hard.count(batch, TASKS["single_label"])) == len(known)

    run()
