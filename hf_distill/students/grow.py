"""A student with more labels than the model that it is made of."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.errors import IncompatiblePair
from hf_distill.students.copying import finished, new, plain_copy
from hf_distill.tasks import task_of

GROWS = ("single_label", "multi_label", "token_classification")
"""The tasks whose labels are columns of the head."""


def grow_labels(student: nn.Module, names: Sequence[str]) -> PreTrainedModel:
    """A copy of a classifier with further labels: the old rows of its head, and new ones behind them.

    Everything else is copied, so that the logits of the old labels are those of the model as it was. The new rows
    start as the class starts its head, drawn from torch's random numbers. The configuration has the old labels in
    their order, then `names`. It is in float32 and in eval mode, on the same device, and shares no storage with the
    model; an adapter is merged first, into a copy. What it answered before is kept by the objective
    `learning_without_forgetting` with the model itself as the teacher.

    Raises: `IncompatiblePair` for names that are none, are repeated or are there already, and for a model that has no
    labels: a regression, spans, a vocabulary, no head, or one label alone.
    """
    base = plain_copy(student, "grow_labels")
    old = _old_names(base)
    _check_names(old, names)
    config = _grown(base.config, [*old, *names])
    grown = new(type(base), config, base)
    state, have = grown.state_dict(), base.state_dict()
    grown.load_state_dict({name: _taller(name, have, tensor, len(old)) for name, tensor in state.items()})
    return finished(grown, base)


def _old_names(base: PreTrainedModel) -> list[str]:
    task, config = task_of(base), base.config
    if task.name not in GROWS or config.num_labels < 2:
        found = "one label" if task.name in GROWS else f"no labels: it solves {task.name}"
        raise IncompatiblePair(
            f"grow_labels: {type(base).__name__} has {found}; give a classifier of texts or tokens with two labels or "
            "more."
        )
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def _check_names(old: Sequence[str], names: Sequence[str]) -> None:
    given = [] if isinstance(names, str) else list(names)
    if not given or any(not isinstance(name, str) or not name for name in given):
        raise IncompatiblePair(f"grow_labels: the new labels are {names!r}; give a list of names.")
    wrong = next((name for name in given if name in old or given.count(name) > 1), None)
    if wrong is not None:
        raise IncompatiblePair(
            f"grow_labels: the label {wrong!r} is there twice; the model has {', '.join(old)}, and {', '.join(given)} "
            "are to be new."
        )


def _grown(config: Any, names: Sequence[str]) -> Any:
    grown = copy.deepcopy(config)
    grown.id2label = dict(enumerate(names))  # and so num_labels
    grown.label2id = {name: i for i, name in enumerate(names)}
    grown.dtype = torch.float32
    grown._name_or_path = ""
    return grown


def _taller(name: str, have: dict[str, Tensor], wanted: Tensor, rows: int) -> Tensor:
    """The model's tensor, with the new rows of `wanted` below it where that is taller."""
    held = have.get(name)
    if held is not None and held.shape == wanted.shape:
        return held
    if held is None or held.shape[1:] != wanted.shape[1:] or len(held) != rows:
        raise IncompatiblePair(
            f"grow_labels: {name} is {None if held is None else tuple(held.shape)} and would be {tuple(wanted.shape)} "
            "with the new labels: the head does not have a row for each label."
        )
    return torch.cat([held.to(wanted), wanted[rows:]])
