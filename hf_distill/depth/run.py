"""Builds, for a set of signals, the shallowest run of a model that shows them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.depth.blocks import (
    Attending,
    OneRow,
    Projected,
    ProjectedAttention,
    ProjectedBlock,
    Projections,
    RowAttention,
    RowBlock,
    RowHead,
    RowOfAttention,
    Rows,
    takes_one_query,
)
from hf_distill.depth.plan import Plan, runs_whole
from hf_distill.depth.views import Views
from hf_distill.families import Family
from hf_distill.taps.signals import tap_of


@dataclass(frozen=True, eq=False)
class Run:
    """One way to run a model, whole or in part.

    `anatomy` says where signals are read, `accepts` which arguments it takes, `description` what runs.
    """

    anatomy: Anatomy
    module: Callable[..., Any]
    description: str
    views: Views | None = None
    rows: Rows | None = None

    @classmethod
    def whole(cls, anatomy: Anatomy, because: str = "") -> Run:
        """The model as it is."""
        return cls(anatomy, anatomy.model, f"the whole model, as {because}" if because else "the whole model")

    @property
    def is_whole(self) -> bool:
        return self.views is None

    def refresh(self) -> None:
        """Takes over the mode of the model and what else was set on it."""
        if self.views is not None:
            self.views.refresh()

    def __call__(self, **inputs: Any) -> Any:
        if not torch.compiler.is_compiling():  # traced, it would be new code at every pass
            self.refresh()
        if self.rows is not None:
            self.rows.look_at(inputs)
        return self.module(**inputs)


def shallow(anatomy: Anatomy, signals: Iterable[Signal]) -> Run:
    """The shallowest run of a model that shows these signals, with the values and gradients of the whole model.

    It ends at the deepest layer that is read, there at queries, keys and values where nothing else of it is read; head
    and pooler run where their output is read. A sequence classifier of which nothing is read at all positions of the
    last layer computes that layer for the position that its head reads, where the family's row says which one it is.
    The run shares parameters, layers, hooks and mode with the model, which stays as it is. Where the model must be
    seen whole (`runs_whole`), it is.

    With dropout, a last layer that is computed for one position draws fewer random numbers: the law and the expected
    gradient are the same, the draws are not.

    Raises: `IncompatiblePair` for a signal that the model does not have.
    """
    wanted, reason = frozenset(signals), runs_whole(anatomy)
    for signal in wanted:
        tap_of(anatomy, signal)
    if reason or not wanted:
        return Run.whole(anatomy, reason)
    return _Builder(anatomy, Plan.of(anatomy, wanted)).run()


class _Builder:
    """Carries out one plan."""

    def __init__(self, anatomy: Anatomy, plan: Plan) -> None:
        self.anatomy, self.plan = anatomy, plan
        self.row: Family = anatomy.row  # type: ignore[assignment]
        self.shape = anatomy.shape.stack(plan.stack)
        self.views = Views()
        self.top = self.views.of(plan.base)
        self.rows: Rows | None = None

    def run(self) -> Run:
        plan, total = self.plan, self.shape.num_hidden_layers
        cut = plan.depth < total or plan.projections is not None or plan.position
        if cut:
            self._cut_blocks()
        if not plan.above and self.row.final_norm:
            self.views.replace(self.top, self._path(self.row.final_norm), nn.Identity())
        without_pooler = not plan.pooled and plan.base is self.anatomy.base.base_model and self._has_pooler()
        if without_pooler:
            self.views.replace(self.top, "pooler", None)
        without_words = not plan.head and self._leave_out_words()
        if not (cut or without_pooler or without_words) and plan.base is self.anatomy.base:
            return Run.whole(self.anatomy)
        anatomy = self.anatomy.part(plan.base, {plan.stack: plan.depth})
        return Run(anatomy, self.top.module, self._description(), self.views, self.rows)

    # ---- layers ----

    def _cut_blocks(self) -> None:
        plan, row = self.plan, self.row
        blocks = self.anatomy.blocks(plan.stack)[: max(plan.depth, 1)]
        if plan.position:
            blocks[-1] = self._one_row(blocks[-1])
        elif plan.projections is not None:
            blocks[-1] = self._projected(blocks[-1], plan.projections)
            if plan.depth <= 1 and self.anatomy.ends_behind_block(1, plan.stack):
                self.views.replace(self.top, self._path(row.first_block_end), None)
        path = self._path(row.blocks)
        if row.groups:
            self._ungroup(path.rpartition(".")[0], len(blocks))
        self.views.replace(self.top, path, nn.ModuleList(blocks))

    def _ungroup(self, owner: str, number: int) -> None:
        """Shared blocks come as a list with one group for each layer."""
        view = self.views.along(self.top, owner)
        config: Any = copy.copy(view.original.config)
        setattr(config, self.row.depth[""], number)
        setattr(config, self.row.groups, number)
        view.attributes["config"] = config

    def _projected(self, block: nn.Module, paths: tuple[str, ...]) -> nn.Module:
        attention = None
        if paths:
            part = Projections(self.row, paths, self.shape.head_size)
            attention = self.views.of(block.get_submodule(self.row.attention), ProjectedAttention, part=part).module
        return self.views.of(block, ProjectedBlock, part=Projected(self.row, attention)).module

    def _one_row(self, block: nn.Module) -> nn.Module:
        row, position = self.row, self.plan.position
        rows = self.rows = Rows(position == "last", self.anatomy.base.config)
        # The block runs without its own checkpoint: what it holds for one position is small, and a second run would
        # not find the other positions.
        inner = self.views.of(block, gradient_checkpointing=False)
        attention, part = block.get_submodule(row.attention), Attending.of(row, rows, self.shape, block)
        if takes_one_query(row, attention):
            alone = self.views.of(attention, RowAttention, part=part).module
        else:
            alone = RowOfAttention(attention, part)
        self.views.replace(inner, row.attention, alone)
        end = None
        if position == "last":
            end = self.top.original.get_submodule(self._path(row.final_norm))
            self.views.replace(self.top, self._path(row.final_norm), nn.Identity())
            head = self.top.original.get_submodule(row.score)
            self.views.replace(self.top, row.score, RowHead(head))
        return self.views.of(block, RowBlock, part=OneRow(rows, inner.module, end)).module

    def _leave_out_words(self) -> bool:
        """Whether a language head was left out that is part of a model without a submodel below it."""
        heads = self.plan.base.get_output_embeddings() if self.plan.base.base_model is self.plan.base else None
        name = next((name for name, module in self.plan.base.named_children() if module is heads), None)
        if name is not None:
            self.views.replace(self.top, name, nn.Identity())
        return name is not None

    # ---- names ----

    def _path(self, below_root: str) -> str:
        root = self.anatomy.roots[self.plan.stack]
        name = next(name for name, module in self.plan.base.named_modules() if module is root)
        return f"{name}.{below_root}" if name else below_root

    def _has_pooler(self) -> bool:
        return isinstance(getattr(self.plan.base, "pooler", None), nn.Module)

    def _description(self) -> str:
        plan = self.plan
        stack = f" of the {plan.stack}" if plan.stack else ""
        layers = f"{plan.depth} of {self.shape.num_hidden_layers} layers{stack}"
        if plan.position:
            layers += f", the last one for the {plan.position} position alone"
        elif plan.projections:
            layers += ", the last one as far as its projections"
        return layers if plan.head else f"{layers}, without a head"
