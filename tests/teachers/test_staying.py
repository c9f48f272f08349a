"""Teachers that stay on a device of their own: every pass runs there, and what it shows comes to the student's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from hf_distill.activations import MAIN, Activations, Signal
from hf_distill.passes import Beside, InputGradient, Noisy
from hf_distill.teachers import Frozen
from tests.tiny_models import CLASSIFIER, batch, tiny

HOME, AWAY = torch.device("meta"), torch.device("cpu")
"""The student's device and the teacher's. Tensors without values stand in for two, and are refused together."""

PASSES = {
    "main": Signal("hidden", 2),
    "noise": Signal("logits", source=Noisy()),
    "gradient of the label": Signal("input_gradient", source=InputGradient(target="label", scalar="cross_entropy")),
    "gradient of the teacher's class": Signal("input_gradient", source=InputGradient()),
    "another text": Signal("hidden", 2, source=Beside()),
}


def teacher_of(signal: Signal, model: PreTrainedModel, place: torch.device) -> Frozen:
    teacher = Frozen(model)
    teacher.bind(frozenset({signal}))
    teacher.place(place, nullcontext)
    return teacher


def rows() -> dict[str, Tensor]:
    found = batch("bert")
    texts = {f"positive_{name}": found[name].flip(0) for name in ("input_ids", "attention_mask")}
    return {**found, **texts, "labels": torch.tensor([0, 2, -100])}


def without_values(model: PreTrainedModel) -> PreTrainedModel:
    """The model with tensors of the mode at hand in place of its own."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=AWAY)
                    held[name] = torch.nn.Parameter(empty) if held is module._parameters else empty
    return model


def tensors(shown: Activations) -> Iterator[Tensor]:
    for value in shown.tensors.values():
        yield from value.values() if isinstance(value, dict) else (value,)
    yield from shown.drawn.values()
    if shown.mask is not None:
        yield shown.mask


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_runs_where_the_teacher_is_and_what_it_shows_comes_home(name: str) -> None:
    model, signal = tiny("bert", CLASSIFIER), PASSES[name]
    model.hf_device_map = {"": str(AWAY)}
    read: list[torch.device] = []
    model.bert.embeddings.register_forward_hook(
        lambda _module, args, given, _output: read.append(given["input_ids"].device), with_kwargs=True
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        teacher = teacher_of(signal, without_values(model), HOME)
        given = {name: torch.empty(each.shape, dtype=each.dtype, device=HOME) for name, each in rows().items()}
        shown = teacher.activations(given)
        found = {each.device for each in tensors(shown.in_pass(signal.source))}
    assert read == [AWAY]
    assert found == {HOME}


@pytest.mark.parametrize("name", PASSES)
def test_a_teacher_that_stays_where_the_student_is_shows_the_same(name: str) -> None:
    signal = PASSES[name]
    found = []
    for placed in (None, {"": "cpu"}):
        model = tiny("bert", CLASSIFIER)
        if placed is not None:
            model.hf_device_map = placed
        torch.manual_seed(0)
        shown = teacher_of(signal, model, AWAY).activations(rows())
        found.append([*tensors(shown.in_pass(signal.source))])
        assert (signal.source == MAIN) is not bool(shown.passes)
    assert len(found[0]) > 1
    assert all(map(torch.equal, *found))
