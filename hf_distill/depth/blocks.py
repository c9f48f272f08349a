"""Blocks that run in part: as far as queries, keys and values, or for one position of each sequence.

They are views: their parameters, hooks and mode are those of the block, and `part` says what else they know.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_distill.anatomy import StackShape
from hf_distill.families import Family
from hf_distill.taps.attention import rotate, split_heads

# --- as far as the projections --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Projected:
    """What a block that ends at its projections knows. `attention` is None where the block only receives its input."""

    row: Family
    attention: nn.Module | None


class ProjectedBlock(nn.Module):
    """A block that runs the norm before its attention and the projections that are read. It returns its input."""

    part: Projected

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        part = self.part
        if part.attention is not None:
            norm = part.row.attention_norm
            part.attention(self.get_submodule(norm)(hidden_states) if norm else hidden_states, *args, **kwargs)
        outputs = part.row.block_outputs
        return (hidden_states, *(None,) * (outputs - 1)) if outputs else hidden_states


@dataclass(frozen=True)
class Projections:
    """The paths of the projections that are read, below the attention."""

    row: Family
    paths: tuple[str, ...]
    head_size: int


class ProjectedAttention(nn.Module):
    """An attention of which only projections run. Its hooks see its arguments, from which a rotation is read."""

    part: Projections

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> None:
        for path in self.part.paths:
            project(self.part.row, self, path, hidden_states, self.part.head_size)


def project(row: Family, attention: nn.Module, path: str, hidden_states: Tensor, head_size: int) -> Tensor:
    """What the module at `path` gives; where it is a norm over heads, of the projection that it follows."""
    if path in row.normed:
        hidden_states = attention.get_submodule(row.normed[path])(hidden_states).unflatten(-1, (-1, head_size))
    projected: Tensor = attention.get_submodule(path)(hidden_states)
    return projected


# --- one position of each sequence ----------------------------------------------------------------


class Rows:
    """Which position of each sequence is computed: the first, or the last that is no padding.

    `index` `[batch]` holds the latter, `context` what the block received, `[batch, length, width]`, while it runs.
    """

    def __init__(self, last: bool, config: Any) -> None:
        self.last, self.config = last, config
        self.index: Tensor | None = None
        self.context: Tensor | None = None

    def look_at(self, inputs: Mapping[str, Any]) -> None:
        """Finds the positions of a batch, as the classifier of a decoder does."""
        if not self.last:
            return
        ids = inputs.get("input_ids")
        states: Tensor = inputs["inputs_embeds"] if ids is None else ids
        positions = torch.arange(states.shape[1], device=states.device)
        pad = self.config.get_text_config().pad_token_id  # a Trainer may set it when it starts
        if ids is None or pad is None:
            self.index = positions[-1:].expand(len(states))
        else:
            self.index = (positions * (ids != pad)).argmax(-1)

    def pick(self, states: Tensor, dim: int) -> Tensor:
        """The one position along `dim`, which stays, with size 1. What broadcasts along it stays as it is."""
        if states.shape[dim] == 1:
            return states
        if self.index is None:
            return states.narrow(dim, 0, 1)
        states = states.expand(len(self.index), *states.shape[1:])
        sizes = [*states.shape]
        sizes[dim] = 1
        index = self.index.view(-1, *[1] * (states.dim() - 1))
        return states.gather(dim, index.expand(sizes))

    def causal(self, length: int, device: torch.device) -> Tensor:
        """Which positions the computed one may see in a causal attention, boolean `[batch or 1, 1, 1, length]`."""
        positions = torch.arange(length, device=device)
        last = 0 if self.index is None else self.index.view(-1, 1, 1, 1)
        return (positions <= last).view(-1, 1, 1, length)


@dataclass(frozen=True, eq=False)
class OneRow:
    """What a block for one position knows: `inner`, the block with an attention for one position.

    With `norm`, the norm that follows the blocks runs here, and what comes out is shown at every position: the head
    picks its position itself.
    """

    rows: Rows
    inner: nn.Module
    norm: nn.Module | None


class RowBlock(nn.Module):
    """A block that computes keys and values for all positions and everything else for one."""

    part: OneRow

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        part = self.part
        part.rows.context = hidden_states
        try:
            output = part.inner.forward(part.rows.pick(hidden_states, 1), *args, **kwargs)
        finally:
            part.rows.context = None
        if part.norm is None:
            return output
        return part.norm(output).expand(-1, hidden_states.shape[1], -1)


class RowHead(nn.Module):
    """A head that gives for every position what it gives for the first; there all are equal."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden_states: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden_states[:, :1])
        return logits.expand(-1, hidden_states.shape[1], -1)


@dataclass(frozen=True, eq=False)
class Attending:
    """What an attention for one position knows.

    `norm` comes before it in its block; `names` are those of its arguments behind the hidden states; `eager` is its
    family's own function of queries, keys and values.
    """

    row: Family
    rows: Rows
    shape: StackShape
    norm: nn.Module | None
    names: tuple[str, ...]
    eager: Callable[..., Any] | None

    @classmethod
    def of(cls, row: Family, rows: Rows, shape: StackShape, block: nn.Module) -> Attending:
        """What the attention of a block has to know."""
        attention = block.get_submodule(row.attention)
        norm = block.get_submodule(row.attention_norm) if row.attention_norm else None
        names = tuple(inspect.signature(attention.forward).parameters)[1:]
        eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
        return cls(row, rows, shape, norm, names, eager)

    def context(self) -> Tensor:
        """What keys and values are made of, for all positions."""
        states: Tensor = self.rows.context  # type: ignore[assignment]
        return states if self.norm is None else self.norm(states)


class RowAttention(nn.Module):
    """softmax(q_r K^T scaling + mask_r) V for one position r of each sequence; K and V are those of all positions."""

    part: Attending
    config: Any

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        part, kind = self.part, self.config._attn_implementation
        given = dict(zip(part.names, args, strict=False)) | kwargs
        query, key, value = self._heads(hidden_states, given.get("position_embeddings"))
        causal = bool(getattr(self, "is_causal", False))
        mask = _mask(part.rows, given.get("attention_mask"), key, causal, additive=kind == "eager")
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, part.eager)
        output, _ = attend(self, query, key, value, mask, dropout=self._dropout(), scaling=self._scaling())
        output = output.reshape(*hidden_states.shape[:-1], -1)
        return part.row.leave(self, output, hidden_states), None  # type: ignore[misc]

    def _heads(self, hidden_states: Tensor, rotation: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[batch, heads, 1, head_size]` and keys and values `[batch, groups, length, head_size]`."""
        part, context = self.part, self.part.context()
        row, shape, rows = part.row, part.shape, part.rows
        if row.queries == row.values:
            query, key, value = self.get_submodule(row.queries)(context).chunk(3, dim=-1)
            query = rows.pick(query, 1)
        else:
            query = project(row, self, row.queries, hidden_states, shape.head_size).flatten(2)
            key, value = (
                project(row, self, path, context, shape.head_size).flatten(2) for path in (row.keys, row.values)
            )
        query = split_heads(query, shape.num_attention_heads)
        key, value = (split_heads(states, shape.num_key_value_heads) for states in (key, value))
        if row.scores == "rotary":
            query = rotate(query, *(rows.pick(table, 1) for table in rotation), pairs=row.turns_pairs)
            key = rotate(key, *rotation, pairs=row.turns_pairs)
        return query, key, value

    def _dropout(self) -> float:
        rate = next(
            getattr(self, name) for name in ("attn_dropout", "attention_dropout", "dropout") if hasattr(self, name)
        )
        return float(getattr(rate, "p", rate)) if self.training else 0.0

    def _scaling(self) -> float:
        return float(getattr(self, "scaling", self.part.shape.head_size**-0.5))


class RowOfAttention(nn.Module):
    """A position of what the whole attention gives; for those that cannot be asked for one query alone."""

    def __init__(self, attention: nn.Module, part: Attending) -> None:
        super().__init__()
        self.attention, self.part = attention, part

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        whole = self.attention(self.part.context(), *args, **kwargs)
        return self.part.rows.pick(whole[0], 1), None


def takes_one_query(row: Family, attention: nn.Module) -> bool:
    """Whether `RowAttention` computes what this attention does. Other kernels lay out their masks in other ways."""
    config: Any = getattr(attention, "config", None)
    if row.leave is None or config is None or config._attn_implementation not in ("sdpa", "eager"):
        return False
    return not (config._attn_implementation == "eager" and getattr(attention, "reorder_and_upcast_attn", False))


def _mask(rows: Rows, mask: Tensor | None, key: Tensor, causal: bool, additive: bool) -> Tensor | None:
    """The mask's row of the computed position; made here where a causal attention was left to do without."""
    if mask is not None:
        return rows.pick(mask, 2)
    if not causal:
        return None
    seen = rows.causal(key.shape[2], key.device)
    if not additive:
        return seen
    return torch.zeros_like(seen, dtype=key.dtype).masked_fill(~seen, torch.finfo(key.dtype).min)
