"""Whether models and terms keep the documents of a packed row apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hf_distill.anatomy import Anatomy
from hf_distill.data.documents import POSITIONS, PaddedRows
from hf_distill.errors import IncompatiblePair

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer

LENGTH = 8
"""Tokens of each document that is tried."""
LARGEST_CHANGE = {torch.float32: 1e-5, torch.float64: 1e-5}
"""How far logits may be off, in parts of their norm; of other types 0.01, as grids of 8 bits may follow the batch."""
_SO = (
    ", and packed ones are told apart by their position_ids alone. Do not pack (data.chat.packing), or take another "
    "model."
)


def keeps_documents_apart(trainer: BoundTrainer, *, sharded: bool) -> None:
    """Refuses packed rows for terms that join their documents, and for models that look across these: by position_ids
    alone they are told apart, and OPT, bidirectional models made causal, and layers that scan their inputs do not heed
    them.

    A student whose parameters no process has whole is not tried.
    """
    rows, columns = trainer.data_collator, getattr(trainer.train_dataset, "column_names", None) or ()
    if not isinstance(rows, PaddedRows) or POSITIONS not in columns:
        return
    _refuse_terms(trainer)
    students = [] if sharded else [("student", trainer.model)]
    teachers = [] if trainer.teacher is None else [("teacher", each) for each in trainer.teacher.models]
    for role, model in [*students, *teachers]:
        _try(model, role)


def _refuse_terms(trainer: BoundTrainer) -> None:
    distillation = trainer.distillation
    for name, objective in zip(distillation.objectives, distillation.terms(), strict=True):
        if found := objective.joins_documents:
            raise IncompatiblePair(
                f"objective {name!r} {found}, and the training rows hold several documents each, which are texts of "
                "their own. Do not pack (data.chat.packing: false), or leave the term out."
            )


@torch.no_grad()
def _try(model: nn.Module, role: str) -> None:
    """Runs two rows whose second documents are the same, and whose first are not."""
    anatomy = Anatomy.of(model)
    if POSITIONS not in anatomy.accepts:
        raise IncompatiblePair(f"the {role}, a {type(model).__name__}, takes no position_ids{_SO}")
    size, generator = anatomy.shape.vocab_size, torch.Generator().manual_seed(0)
    first, other, second = torch.randint(size // 4, size // 2, (3, LENGTH), generator=generator)
    ids = torch.stack([torch.cat([first, second]), torch.cat([other, second])])
    places = torch.arange(LENGTH).repeat(2).expand(2, -1)
    where, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        logits = model(input_ids=ids.to(where), position_ids=places.to(where)).logits[:, LENGTH:].double()
    finally:
        model.train(training)
    largest = LARGEST_CHANGE.get(next(model.parameters()).dtype, 1e-2)
    if not (logits[0] - logits[1]).norm() <= largest * logits[0].norm():
        raise IncompatiblePair(f"the {role}, a {type(model).__name__}, looks across the documents of a row{_SO}")
