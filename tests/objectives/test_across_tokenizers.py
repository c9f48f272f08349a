"""ULD and GOLD: against what TRL gave for the same inputs, and against loops."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill import losses, objectives
from hf_distill.activations import Activations
from hf_distill.chunks import Sizes
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.across import Across
from hf_distill.objectives.span_sums import Side, span_sums
from hf_distill.tasks import TASKS
from tests.shapes import shape
from tests.tokenizers_of_kinds import tokenizer

FILE = json.loads((Path(__file__).parents[1] / "golden" / "across_tokenizers.json").read_text(encoding="utf-8"))
TASK = TASKS["causal_lm"]
OURS, THEIRS = FILE["student_words"], FILE["teacher_words"]
EXACT = tuple((i, THEIRS.index(word)) for i, word in enumerate(OURS) if word in THEIRS)


def pair(**changes: Any) -> Pair:
    across = Across(exact=EXACT, text=((0, 0), (1, 1)))
    made = Pair.from_shapes(shape(num_logits=7), shape(num_logits=9), TASK, across=across)
    return replace(made, **changes)


def bound(name: str, settings: dict[str, Any]) -> Objective:
    made = objectives.make(name, settings)
    made.bind(pair())
    return made


def columns() -> dict[str, Tensor]:
    inputs = {name: torch.tensor(values) for name, values in FILE["inputs"].items()}
    inputs["attention_mask"] = torch.ones_like(inputs["labels"])
    inputs["teacher_attention_mask"] = torch.ones_like(inputs["teacher_labels"])
    return inputs


def evaluated(objective: Objective, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The mean over what it counts, and its gradient in the student's logits."""
    batch = columns()
    ours, theirs = (batch.pop(f"{side}_logits").to(dtype) for side in ("student", "teacher"))
    leaf = ours.requires_grad_()
    total = objective(Activations(logits=leaf), Activations(logits=theirs), batch)
    loss = total / objective.count(batch, TASK)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def test_sorted_probabilities_are_compared_as_by_hand() -> None:
    student = torch.tensor([[0.1, 0.7, 0.2]], dtype=torch.float64)
    teacher = torch.tensor([[0.05, 0.5, 0.4, 0.05]], dtype=torch.float64)
    found = losses.sorted_distance(student, teacher)
    torch.testing.assert_close(found, torch.tensor([0.2 + 0.2 + 0.05 + 0.05], dtype=torch.float64))


def loops(made: Objective, batch: dict[str, Tensor], ours: Tensor, theirs: Tensor) -> float:
    """GOLD with `chain_rule`, span by span and word by word."""
    laws = [functional.softmax(logits, -1).tolist() for logits in (ours, theirs)]
    means = []
    for row in range(len(ours)):
        values = []
        for span in range(1 + int(batch["student_spans"][row].max())):
            merged = []
            for law, names in zip(
                laws, (("student_spans", "labels"), ("teacher_spans", "teacher_labels")), strict=True
            ):
                spans, labels = (batch[name][row].tolist() for name in names)
                places = [place for place, number in enumerate(spans) if number == span]
                scale = math.prod(law[row][place - 1][labels[place]] for place in places[:-1])
                merged.append([scale * value for value in law[row][places[-1] - 1]])
            values.append(one_span(merged[0], merged[1], made.settings()["beta"]))
        means.append(sum(values) / len(values))
    return sum(means)


def one_span(q: list[float], p: list[float], beta: float) -> float:
    share = len(EXACT) / len(THEIRS)
    matched = 0.0
    for ours, theirs in EXACT:
        mixed = beta * p[theirs] + (1 - beta) * q[ours]
        matched += beta * p[theirs] * math.log(p[theirs] / mixed) + (1 - beta) * q[ours] * math.log(q[ours] / mixed)
    taken = [set(side) for side in zip(*EXACT, strict=True)]
    left = [
        sorted((v for i, v in enumerate(law) if i not in s), reverse=True)
        for law, s in zip((q, p), taken, strict=True)
    ]
    unmatched = sum(abs(a - b) for a, b in zip_longest(*left, fillvalue=0.0))
    return share * matched + (1 - share) * unmatched


def test_gold_is_what_loops_over_spans_give() -> None:
    batch, made = columns(), bound("gold", {"beta": 0.3})
    ours, theirs = (batch.pop(f"{side}_logits").double() for side in ("student", "teacher"))
    found = made(Activations(logits=ours), Activations(logits=theirs), batch)
    assert float(found) == pytest.approx(loops(made, batch, ours, theirs), abs=1e-9)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluated(bound("gold", {}), torch.float64)
    monkeypatch.setattr(Sizes, "of", classmethod(lambda cls, *_: cls(1, 1)))
    found = evaluated(bound("gold", {}), torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_gradient_of_half_precision_logits_keeps_its_digits() -> None:
    """A long example, whose mean makes each number of the gradient smaller than float16 has digits for; the engine's
    loss scale comes behind it."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(1, 500, 4000, generator=generator).half() for _ in range(2))
    places = torch.arange(500).unsqueeze(0)
    weights, counted = torch.full((1, 500), 1 / 500), torch.ones(1, 500, dtype=torch.bool)
    found = []
    for dtype in (torch.float16, torch.float64):
        leaf = ours.to(dtype).requires_grad_()
        sides = [Side(logits, places, places, 1.0, True) for logits in (leaf, theirs.to(dtype))]
        total, _ = span_sums(*sides, lambda q, p: losses.forward_kl(q, p).unsqueeze(-1), weights, (1.0,), counted)
        (gradient,) = torch.autograd.grad(total * 2.0**15, leaf)
        found.append(gradient.double())
    assert (found[0] - found[1]).norm() < 1e-3 * found[1].norm()


@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_equal_models_are_at_the_minimum_of_gold(beta: float) -> None:
    """Where both read the same tokens of the same vocabulary, of which all match."""
    every = Across(exact=tuple((i, i) for i in range(7)), text=())
    made = objectives.make("gold", {"beta": beta})
    made.bind(pair(across=every, teacher=shape(num_logits=7)))
    batch = columns()
    alike = {"teacher_labels": batch["labels"], "teacher_spans": batch["student_spans"]}
    batch |= {**alike, "teacher_attention_mask": batch["attention_mask"]}
    logits = batch.pop("student_logits").double().requires_grad_()
    loss = made(Activations(logits=logits), Activations(logits=logits.detach()), batch)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


def test_entries_match_by_how_they_are_written_or_by_their_text() -> None:
    across = Across.of(tokenizer("wordpiece"), tokenizer("bpe"))
    ours, theirs = (tokenizer(kind).convert_ids_to_tokens for kind in ("wordpiece", "bpe"))
    exact = {(ours(a), theirs(b)) for a, b in across.exact}
    text = {(ours(a), theirs(b)) for a, b in across.text}
    assert ("the", "Ġthe") in text - exact
    assert ("t", "t") in exact - text
    assert ("##t", "t") in text
    roles = {("[PAD]", "<|end|>")}
    assert {(a, b) for a, b in exact if a != b} <= roles
    for found in (across.exact, across.text):
        assert len({a for a, _ in found}) == len({b for _, b in found}) == len(found)


@pytest.mark.parametrize("shared", ["student", "teacher"])
def test_a_token_that_begins_and_ends_texts_is_the_others_end(shared: str) -> None:
    """GPT-2's <|endoftext|> is both, and what models learn to write is an end."""
    one, other = copy.deepcopy(tokenizer("bpe")), tokenizer("unigram")
    one.bos_token = one.eos_token
    ours, theirs = (one, other) if shared == "student" else (other, one)
    for found in (Across.of(ours, theirs).exact, Across.of(ours, theirs).text):
        assert (ours.eos_token_id, theirs.eos_token_id) in found
        assert {ours.bos_token_id, ours.eos_token_id} & {a for a, _ in found} == {ours.eos_token_id}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DistillationError, match="matched_weight is given and unmatched_weight is not"):
        objectives.make("gold", {"matched_weight": 1.0})
    with pytest.raises(IncompatiblePair, match="they have none"):
        objectives.make("gold", {}).bind(pair(across=Across(exact=(), text=((0, 0),))))
    with pytest.raises(IncompatiblePair, match="the teacher's tokenizer has an entry 9, and the teacher has logits"):
        Across(exact=((0, 9),), text=()).check(7, 9)
    batch = columns()
    del batch["teacher_spans"]
    with pytest.raises(DataError, match=r"'gold' reads the column 'teacher_spans'.*on-policy"):
        bound("gold", {}).count(batch, TASK)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: case["id"])
def test_trl_gives_the_same(case: dict[str, Any], dtype: torch.dtype) -> None:
    loss, gradient = evaluated(bound(case["objective"], case["settings"]), dtype)
    rounding = FILE["about"]["tolerance"] if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), torch.tensor(case["loss"], dtype=torch.float64), rtol=0, atol=rounding)
    expected = torch.tensor(case["gradient"], dtype=torch.float64)
    assert expected.any()
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=rounding)
