"""What every registered objective keeps, whatever its settings, task and sizes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor
from torch.func import functional_call

from hf_distill import objectives
from hf_distill.activations import MAIN, Activations, EnsembleActivations, Pass, Signal
from hf_distill.errors import DistillationError
from hf_distill.objectives import Objective
from hf_distill.tasks import IGNORED
from tests.contract.worlds import (
    ACROSS,
    FOLLOWS_ITSELF,
    NUM_LOGITS,
    TWO_VOCABULARIES,
    Case,
    Scene,
    activations,
    cases,
    is_padding,
    made_batch,
    over,
    rows,
    scene,
    widened,
)

CASES = cases()
OWN_ARITHMETIC = [case for case in CASES if case.world.size in ("alike", ACROSS) or case.learns]
"""Models of other sizes are compared by the same arithmetic on other layers, but where it learns to join them."""
PADDED = [case for case in OWN_ARITHMETIC if not case.padding_counts]
ALIKE = [case for case in CASES if case.world.size == "alike" and case.compares_equals]
OF_SENTENCES = ("embedding_cosine", "embedding_mse", "margin_mse", "multilingual_mse")
ONE_STACK = ("next_sentence", "bounded_regression", "ctc_nbest_kd", *TWO_VOCABULARIES, *OF_SENTENCES)
"""Objectives over a head that no encoder-decoder has, over scores, over sounds, of causal models alone, or over
sentence vectors."""
every_name = pytest.mark.parametrize("name", objectives.names())


def gradients(made: Scene, objective: Objective) -> tuple[Tensor, Scene]:
    """The loss and the scene whose tensors hold the gradients."""
    leaves = made.leaves()
    loss = leaves.loss(objective)
    loss.backward()
    return loss.detach(), leaves


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# ---- coverage ----


@every_name
def test_every_objective_is_covered(name: str) -> None:
    mine = [case for case in CASES if case.objective == name]
    assert any(not case.settings for case in mine), "no task and shape accepts the default settings"
    if any(signal.layer is not None for case in mine for signal in case.bound().needs().student):
        assert {case.world.size for case in mine} >= {"alike", "deeper"}
    if name not in ONE_STACK:
        assert {case.world.encoder_decoder for case in mine} == {False, True}


@every_name
def test_documentation_is_whole(name: str) -> None:
    objective = objectives.get(name)
    text = objective.__doc__ or ""
    assert text.splitlines()[0].strip()
    for part in ("Reads:", "Counts:", "Errors:"):
        assert part in text, part
    papers = re.findall(r"arXiv:\d{4}\.\d{4,5}", text)
    assert papers or "url = {" in objective.citation, "the source is not named"
    if objective.needs_teacher:
        assert objective.citation.startswith("@")
        year = re.search(r"year = \{(\d{4})\}", objective.citation)
        eprint = re.search(r"eprint = \{([\d.]+)\}", objective.citation)
        assert year
        assert year.group(1) in text
        assert eprint or not papers
        assert eprint is None or f"arXiv:{eprint.group(1)}" in text


# ---- padding, order, parts ----


@over(PADDED)
def test_what_stands_in_padding_does_not_matter(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    expected, plain = gradients(made, objective)
    for values in ((1e4,), (float("inf"), float("-inf"), float("nan"))):

        def fill(key: str | Signal, tensor: Tensor, values: tuple[float, ...] = values) -> Tensor:
            padding = is_padding(made, key) if isinstance(key, Signal) else None
            if padding is None:
                return tensor
            in_turn = torch.tensor(values, dtype=tensor.dtype).repeat(tensor.numel())[: tensor.numel()]
            return torch.where(padding, in_turn.view_as(tensor), tensor)

        found, filled = gradients(made.map(fill), objective)
        assert torch.equal(found, expected), values
        for signal, leaf in filled.trained.items():
            assert torch.equal(leaf.grad, plain.student[signal].grad), values
            padding = is_padding(made, signal)
            if padding is not None:
                assert not leaf.grad.masked_fill(~padding, 0.0).any(), values


@over(PADDED)
def test_more_padding_does_not_matter(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    for left, right in ((0, 3), (2, 0)):
        wide = widened(made, left, right, value=3.0)
        assert wide.count(objective) == made.count(objective), (left, right)
        same(wide.loss(objective), made.loss(objective))


@over([case for case in OWN_ARITHMETIC if not case.draws])
def test_order_of_examples_does_not_matter(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    order = torch.arange(len(made.batch["attention_mask"])).roll(1)
    expected, plain = gradients(made, objective)
    found, permuted = gradients(rows(made, order), objective)
    same(found, expected)
    for signal, leaf in permuted.student.items():
        if leaf.grad is not None:
            same(leaf.grad, plain.student[signal].grad[order])


@over([case for case in OWN_ARITHMETIC if not (case.relates_batch or case.draws)])
def test_micro_batches_add_up(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    parts = [rows(made, slice(0, 1)), rows(made, slice(1, 3))]
    whole = made.count(objective)
    if [part.count(objective) for part in parts] == [whole, whole]:
        return  # it counts batches
    same(sum(part.loss(objective) for part in parts), made.loss(objective))
    assert sum(part.count(objective) for part in parts) == whole


HAS_UNITS = [case for case in OWN_ARITHMETIC if case.world.task not in ("question_answering", "ctc")]
WHOLE = {"nbest_kd", *TWO_VOCABULARIES}  # their units are whole texts, and spans of one or more tokens
HAS_UNITS = [case for case in HAS_UNITS if case.objective not in WHOLE]
HAS_UNITS = [case for case in HAS_UNITS if not (case.compares_positions or case.relates_batch or case.keeps_rows)]


@over(HAS_UNITS)
def test_the_mean_is_that_of_its_units(case: Case) -> None:
    """Where every unit has the same value, that value is the sum over the count, however long the texts are."""
    objective, model, means = case.bound(), scene(case), []
    for lengths in ((5, 3, 1), (2, 2), (4,)):
        batch = made_batch(case.world.task, torch.Generator().manual_seed(0), lengths)
        if "labels" in batch:
            labels = batch["labels"]
            kept = labels != IGNORED if case.world.task != "multi_label" else torch.ones_like(labels, dtype=torch.bool)
            batch["labels"] = labels.masked_fill(kept, 1)
        if "margin" in batch:
            batch["margin"] = torch.ones_like(batch["margin"])
        if "next_sentence_label" in batch:
            batch["next_sentence_label"] = torch.ones_like(batch["next_sentence_label"])
        made = scene(case, batch=batch)
        student, teacher = (
            {signal: one_value(signal, case, pattern[signal], tensor) for signal, tensor in side.items()}
            for pattern, side in zip(model.sides, made.sides, strict=True)
        )
        made = replace(made, student=student, teacher=teacher)
        means.append(made.loss(objective) / made.count(objective))
    assert means[0].abs() > 1e-3
    same(means[1], means[0])
    same(means[2], means[0])


def one_value(signal: Signal, case: Case, pattern: Tensor, tensor: Tensor) -> Tensor:
    """The pattern's first vector at every position; where each number is a unit, its first number everywhere."""
    vector = pattern.reshape(-1, pattern.shape[-1])[0]
    one_number = signal.field == "scores" or (signal.field == "logits" and case.world.task == "multi_label")
    return (vector[:1] if one_number else vector).expand_as(tensor).clone()


@over([case for case in CASES if case.has_classes])
def test_order_of_classes_does_not_matter(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    order = torch.randperm(NUM_LOGITS[case.world.task], generator=torch.Generator().manual_seed(1))
    place = order.argsort()

    def permute(key: str | Signal, tensor: Tensor) -> Tensor:
        if isinstance(key, Signal):
            return tensor[..., order] if key.field == "logits" else tensor
        if key != "labels":
            return tensor
        multi = case.world.task == "multi_label"
        return tensor[:, order] if multi else torch.where(tensor == IGNORED, tensor, place[tensor.clamp(min=0)])

    same(made.map(permute).loss(objective), made.loss(objective))


# ---- gradients ----


@over(CASES)
def test_gradient_reaches_the_student_and_not_the_teacher(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    loss, leaves = gradients(made, objective)
    assert loss.dim() == 0
    assert torch.isfinite(loss)
    for signal, leaf in leaves.trained.items():
        assert leaf.grad is not None, signal
        assert torch.isfinite(leaf.grad).all(), signal
        assert leaf.grad.any(), signal
    constants = leaves.student.keys() - leaves.trained.keys()
    assert all(leaves.student[signal].grad is None for signal in constants)
    reached = {signal for signal, leaf in leaves.teacher.items() if leaf.grad is not None}
    assert reached == (set(leaves.teacher) if case.trains_peers else set())
    for parameter in objective.parameters() if not objective.feeds else ():
        assert parameter.grad is not None
        assert parameter.grad.any()


@over(
    [case for case in OWN_ARITHMETIC if not (case.two_sided or case.holds_norms or case.objective in FOLLOWS_ITSELF)]
)
def test_gradients_are_those_of_the_value(case: Case) -> None:
    """What is learned is moved a little: at the biases of 0 that it starts with, a ReLU may have no gradient."""
    objective, made = case.bound(), scene(case).leaves()
    names = [name for name, _ in objective.named_parameters()]
    signals = list(made.trained)
    theirs = made.activations(made.teacher) if objective.needs_teacher else None

    def loss(*tensors: Tensor) -> Tensor:
        ours = made.activations(made.student | dict(zip(signals, tensors, strict=False)))
        learned = dict(zip(names, tensors[len(signals) :], strict=True))
        return functional_call(objective, learned, (ours, theirs, made.batch))

    generator = torch.Generator().manual_seed(0)
    moves = (torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in objective.parameters())
    parameters = [
        (p.detach() + 0.1 * move).requires_grad_() for p, move in zip(objective.parameters(), moves, strict=True)
    ]
    assert torch.autograd.gradcheck(loss, (*made.trained.values(), *parameters), fast_mode=True)


@over(ALIKE)
def test_a_student_like_its_teacher_is_at_the_minimum(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    alike = replace(made, student=made.teacher)
    value, leaves = gradients(alike, objective)
    for leaf in leaves.trained.values():
        torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf), rtol=0, atol=1e-9)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-2, 1.0):
        near = {
            signal: tensor + size * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            for signal, tensor in made.teacher.items()
        }
        assert alike.loss(objective, near) > value


# ---- degenerate batches ----


def finite(made: Scene, objective: Objective) -> tuple[Tensor, Scene]:
    loss, leaves = gradients(made, objective)
    assert torch.isfinite(loss)
    for signal, leaf in leaves.trained.items():
        assert leaf.grad is not None, signal
        assert torch.isfinite(leaf.grad).all(), signal
    return loss, leaves


@over(OWN_ARITHMETIC)
def test_finite_on_one_example_of_one_token(case: Case) -> None:
    batch = made_batch(case.world.task, torch.Generator().manual_seed(0), lengths=(1,))
    finite(scene(case, batch=batch), case.bound())


@over(OWN_ARITHMETIC)
def test_finite_on_equal_vectors_zeros_and_large_values(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    for value in (0.0, 1.0, -1e4):

        def fill(key: str | Signal, tensor: Tensor, value: float = value) -> Tensor:
            return torch.full_like(tensor, value) if isinstance(key, Signal) else tensor

        finite(made.map(fill), objective)
    large = made.map(lambda key, tensor: (tensor * 1e4).float() if isinstance(key, Signal) else tensor)
    finite(large, objective.float())


@over(OWN_ARITHMETIC)
def test_nothing_to_count_is_a_zero_with_a_graph(case: Case) -> None:
    def blank(key: str | Signal, tensor: Tensor) -> Tensor:
        if key == "attention_mask":
            return torch.zeros_like(tensor)
        ignored = key in ("labels", "start_positions", "end_positions", "next_sentence_label")
        return torch.full_like(tensor, IGNORED) if ignored else tensor

    made = scene(case).map(blank)
    objective = case.bound()
    loss, leaves = finite(made, objective)
    if made.count(objective) == 0:
        assert loss == 0
        assert not any(leaf.grad.any() for leaf in leaves.trained.values())


# ---- precision ----


@over(OWN_ARITHMETIC)
def test_half_precision_gives_a_float32_loss(case: Case) -> None:
    objective = case.bound()
    for dtype in (torch.bfloat16, torch.float16):
        made = scene(case, dtype=dtype)
        loss, leaves = gradients(made, case.bound().float())
        assert loss.dtype == torch.float32
        assert all(leaf.grad.dtype == dtype for leaf in leaves.trained.values())
        wide = made.map(lambda key, tensor: tensor.double() if isinstance(key, Signal) else tensor)
        torch.testing.assert_close(loss.double(), wide.loss(objective).detach(), rtol=1e-4, atol=1e-5)


@over([case for case in CASES if case.learns])
def test_what_is_learned_may_be_of_another_dtype(case: Case) -> None:
    """An engine may hold the objective's parameters in bfloat16, and a student may be float64."""
    for learned, shown in ((torch.bfloat16, torch.float32), (torch.float32, torch.float64)):
        objective = case.bound().to(learned)
        assert scene(case, dtype=shown).loss(objective).dtype == shown


# ---- needs, settings, state ----


class Recorder(dict[Any, Any]):
    """A mapping that writes down which keys are taken out of it."""

    def __init__(self, values: dict[Any, Any], seen: set[Signal], name: Any) -> None:
        super().__init__(values)
        self.seen, self.name = seen, name

    def __getitem__(self, key: Any) -> Any:
        self.seen.add(self.name(key))
        return super().__getitem__(key)


class OfMember(set[Signal]):
    """Writes signals into another set, as those of one of several models."""

    def __init__(self, seen: set[Signal], member: str) -> None:
        super().__init__()
        self.seen, self.member = seen, member

    def add(self, signal: Signal) -> None:
        self.seen.add(signal._replace(member=self.member))


def recorded(shown: Activations, seen: set[Signal], stack: str = "", source: Pass = MAIN) -> Activations:
    """The same activations; every signal that is read goes into `seen`."""
    if shown.members:
        views = {}
        for name, each in shown.members.items():
            views[name] = recorded(each, OfMember(seen, name), stack, source)
        return EnsembleActivations(views)
    tensors: dict[str, Any] = {}
    stacks = set()
    for field, value in shown.tensors.items():
        if isinstance(value, Activations):
            stacks.add(field)
            tensors[field] = recorded(value, seen, field, source)
        elif isinstance(value, dict):
            tensors[field] = Recorder(value, seen, lambda layer, field=field: Signal(field, layer, stack, source))
        else:
            tensors[field] = value
    plain = Recorder(tensors, seen, lambda field: Signal(field, None, stack, source))
    view = shown.read_by(shown.reader)
    view.tensors = plain
    view.passes = {each: recorded(its, seen, stack, each) for each, its in shown.passes.items()}
    return view


@over(CASES)
def test_reads_what_it_needs_and_nothing_else(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    seen: tuple[set[Signal], set[Signal]] = (set(), set())
    ours, theirs = (recorded(made.activations(side), read) for side, read in zip(made.sides, seen, strict=True))
    objective(ours, theirs, made.batch)
    for stack, layer in objective.fed_layers:
        width = case.world.pair.student.stack(stack).hidden_size
        objective.feed(stack, layer, torch.zeros(*made.masks()[stack].shape, width), theirs)
    needs = objective.needs()
    for read, needed in zip(seen, (needs.student, needs.teacher), strict=True):
        assert {signal for signal in read if signal.field not in ("encoder", "decoder")} == needed


@over(CASES)
def test_a_signal_that_is_missing_is_named(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    for signal in made.student:
        less = {other: tensor for other, tensor in made.student.items() if other != signal}
        view = activations(less, made.masks()).read_by(case.objective)
        what = f"(the pass '{signal.source.name}'|{signal.field})"
        with pytest.raises(DistillationError, match=f"objective '{case.objective}' reads {what}"):
            objective(view, made.activations(made.teacher), made.batch)


@over(list({case.title: case for case in CASES}.values()))
def test_settings_survive_yaml(case: Case) -> None:
    given = objectives.make(case.objective, dict(case.settings)).settings()
    read = yaml.safe_load(yaml.safe_dump(given))
    again = objectives.make(case.objective, read).settings()
    assert again == given
    assert dict(case.settings).items() <= given.items()


@over([case for case in CASES if case.example.state_dict()])
def test_state_survives_saving(case: Case) -> None:
    objective, made = case.bound(), scene(case)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1)
    again = case.bound()
    again.load_state_dict(load(save(objective.state_dict())))
    assert torch.equal(made.loss(again), made.loss(objective))


@every_name
def test_is_not_used_unbound(name: str) -> None:
    with pytest.raises(DistillationError, match=rf"'{name}' is used before bind"):
        _ = objectives.make(name, {}).pair


@every_name
def test_asks_for_a_teacher_at_bind(name: str) -> None:
    objective = objectives.make(name, {})
    case = next(case for case in CASES if case.objective == name)
    alone = replace(case.world.pair, teacher=None)
    if objective.needs_teacher:
        with pytest.raises(DistillationError, match=name):
            objective.bind(alone)
    else:
        objective.bind(alone)
        assert not objective.needs().teacher
