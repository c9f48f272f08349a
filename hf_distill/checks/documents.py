"""Whether models and terms keep the documents of a packed row apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import DataCollatorWithFlattening

from hf_distill.anatomy import Anatomy
from hf_distill.data.documents import POSITIONS, PaddedRows
from hf_distill.errors import IncompatiblePair

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer

LENGTH = 8
"""Tokens of each document that is tried."""
LARGEST_CHANGE = {torch.float32: 1e-5, torch.float64: 1e-5}
"""How far outputs may be off, in parts of their norm; of other types 0.01, as grids of 8 bits may follow the batch."""


def keeps_documents_apart(trainer: BoundTrainer, *, sharded: bool) -> None:
    """Refuses rows of several documents for terms that join these, and for models that look across them: they are told
    apart by position_ids alone, and OPT, bidirectional models made causal, and layers that scan their inputs do not
    heed these.

    A student whose parameters no process has whole is not tried, and no model where the collator tells flash attention
    of the documents.
    """
    undo = _undone_by(trainer)
    if not undo:
        return
    _refuse_terms(trainer, undo)
    if getattr(trainer.data_collator, "return_flash_attn_kwargs", False):
        return
    students = [] if sharded else [("student", trainer.model)]
    teachers = [] if trainer.teacher is None else [("teacher", each) for each in trainer.teacher.models]
    for role, model in [*students, *teachers]:
        _try(model, role, undo)


def _undone_by(trainer: BoundTrainer) -> str:
    """How to have the documents in rows of their own; empty where they are."""
    rows, columns = trainer.data_collator, getattr(trainer.train_dataset, "column_names", None) or ()
    if isinstance(rows, DataCollatorWithFlattening):
        return "join the rows of a batch (DataCollatorWithFlattening)"
    return "pack (data.chat.packing: false)" if isinstance(rows, PaddedRows) and POSITIONS in columns else ""


def _refuse_terms(trainer: BoundTrainer, undo: str) -> None:
    distillation = trainer.distillation
    for name, objective in zip(distillation.objectives, distillation.terms(), strict=True):
        if found := objective.joins_documents:
            raise IncompatiblePair(
                f"objective {name!r} {found}, and the rows of a training batch hold several documents each, which are "
                f"texts of their own. Do not {undo}, or leave the term out."
            )


@torch.no_grad()
def _try(model: nn.Module, role: str, undo: str) -> None:
    """Runs two rows whose second documents are the same, and whose first are not."""
    anatomy = Anatomy.of(model)
    so = f", by which alone documents are told apart. Do not {undo}, or take another model."
    if POSITIONS not in anatomy.accepts:
        raise IncompatiblePair(f"the {role}, a {type(model).__name__}, takes no position_ids{so}")
    size, generator = anatomy.shape.vocab_size, torch.Generator().manual_seed(0)
    first, other, second = torch.randint(size // 4, size // 2, (3, LENGTH), generator=generator)
    ids = torch.stack([torch.cat([first, second]), torch.cat([other, second])])
    places = torch.arange(LENGTH).repeat(2).expand(2, -1)
    where, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        shown = model(input_ids=ids.to(where), position_ids=places.to(where))[0][:, LENGTH:].double()
    finally:
        model.train(training)
    largest = LARGEST_CHANGE.get(next(model.parameters()).dtype, 1e-2)
    if not (shown[0] - shown[1]).norm() <= largest * shown[0].norm():
        raise IncompatiblePair(
            f"the {role}, a {type(model).__name__}, looks across the documents of a row despite position_ids{so}"
        )
