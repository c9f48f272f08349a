"""What every objective makes of rows of several documents: what it makes of these in rows of their own, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Signal
from hf_distill.errors import DistillationError
from hf_distill.objectives import Objective, Pair
from hf_distill.tasks import DOCUMENTS, IGNORED, TASKS
from tests.contract.worlds import NUM_LOGITS, PADDING, POOL, SIZES, Case, Scene, World, made_batch, scene
from tests.shapes import shape

LENGTHS = (5, 3, 1, 4)
PACKED = ((0, 2), (1, 3))
"""The documents of each packed row."""
LAST: tuple[dict[str, Any], ...] = ({"pooling": "last_token"}, {"pool": "last_token"})
"""What a causal model may be pooled at."""
MEANS_OF_TEXTS = {"delta": {"form": "code"}}
"""Means inside each text that no setting turns into means over tokens: they weigh packed documents as one text."""


@dataclass(frozen=True)
class Words(World):
    """Language models with one causal stack."""

    @property
    def pair(self) -> Pair:
        _, *numbers = SIZES[self.size]
        student, teacher = (
            shape(depth, width, NUM_LOGITS["causal_lm"], causal=True) for depth, width in (numbers[:2], numbers[2:])
        )
        return Pair.from_shapes(student, teacher, TASKS["causal_lm"])


def cases_of(name: str) -> Iterator[Case]:
    """The objective with all settings that it takes, over tokens where it may be."""
    known = signature(objectives.get(name)).parameters.keys()
    for settings in ({}, *POOL, *LAST):
        if not settings.keys() <= known or settings == MEANS_OF_TEXTS.get(name):
            continue
        over_tokens = {**settings, "reduction": "token_mean"} if "reduction" in known else settings
        for size in ("alike", "wider"):
            found = [Case(name, tuple(each.items()), Words("causal_lm", size)) for each in (over_tokens, settings)]
            yield from [case for case in found if fits(case)][:1]


def fits(case: Case) -> bool:
    try:
        case.example.needs()
    except DistillationError:
        return False
    return True


def packed(made: Scene) -> Scene:
    """The scene with its texts as documents of longer rows; what stands between them is 3."""
    together = made.map(lambda key, tensor: laid(key, tensor, PADDING.get(key, 0) if isinstance(key, str) else 3))
    batch = dict(together.batch)
    there = [torch.cat([torch.arange(LENGTHS[i]) for i in row]) for row in PACKED]
    batch["position_ids"] = torch.nn.utils.rnn.pad_sequence(there, batch_first=True)
    batch["labels"] = torch.where(batch["position_ids"] == 0, IGNORED, batch["labels"])
    batch[DOCUMENTS] = (batch["position_ids"] == 0).cumsum(1) * batch["attention_mask"]
    return replace(together, batch=batch)


def laid(key: str | Signal, tensor: Tensor, fill: float) -> Tensor:
    """A tensor over texts as one over packed rows; of numbers of texts the first."""
    in_pairs = isinstance(key, Signal) and key.field == "scores"
    if tensor.shape[-1 if in_pairs else 1 :][:1] != (max(LENGTHS),):
        return tensor[: len(PACKED)]
    longest = max(sum(LENGTHS[i] for i in row) for row in PACKED)
    rest = (tensor.shape[1], longest, longest) if in_pairs else (longest, *tensor.shape[2:])
    found = torch.full((len(PACKED), *rest), fill, dtype=tensor.dtype)
    for number, row in enumerate(PACKED):
        start = 0
        for i in row:
            place = slice(start, start + LENGTHS[i])
            if in_pairs:
                found[number, :, place, place] = tensor[i, :, : LENGTHS[i], : LENGTHS[i]]
            else:
                found[number, place] = tensor[i, : LENGTHS[i]]
            start = place.stop
    return found


def mean_of(made: Scene, objective: Objective) -> tuple[Tensor, dict[Signal, Tensor]]:
    """The mean over what is counted, and its gradients."""
    leaves = made.leaves()
    mean = leaves.loss(objective) / max(made.count(objective), 1)
    mean.backward()
    return mean.detach(), {signal: leaf.grad for signal, leaf in leaves.trained.items() if leaf.grad is not None}


@pytest.mark.parametrize("name", objectives.names())
def test_packed_documents_are_as_in_rows_of_their_own_or_refused(name: str) -> None:
    for case in cases_of(name):
        alone = scene(case, batch=made_batch("causal_lm", torch.Generator().manual_seed(1), LENGTHS))
        expected, gradients = mean_of(alone, case.bound())
        objective = case.bound()
        found, of_packed = mean_of(packed(alone), objective)
        if objective.joins_documents:
            assert not torch.allclose(found, expected, rtol=1e-6), f"{case} need not be refused"
            continue
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12), f"{case}: {found} in place of {expected}"
        for signal, gradient in gradients.items():
            torch.testing.assert_close(of_packed[signal], laid(signal, gradient, 0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["activation_boundary", "delta", "fitnets_hint", "vid"])
def test_documents_of_packed_rows_are_texts_where_texts_are_counted(name: str) -> None:
    case = Case(name, (), Words("causal_lm"))
    made = scene(case, batch=made_batch("causal_lm", torch.Generator(), LENGTHS))
    assert packed(made).count(case.bound()) == len(LENGTHS)
