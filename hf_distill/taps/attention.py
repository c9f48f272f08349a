"""Queries, keys, values and scores of one attention, from what its modules take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import StackShape
from hf_distill.errors import IncompatiblePair
from hf_distill.families import Family
from hf_distill.losses import at_least_float32
from hf_distill.taps.points import Point, Read, Tap, read_given_bias, read_output, read_returned_bias, read_rotation


def projection(row: Family, attention: nn.Module, field_name: str, runs: tuple[int, int]) -> Tap:
    """Queries, keys or values `[batch, length, heads * head_size]`; `runs` are those of the block."""
    position = ("queries", "keys", "values").index(field_name)
    module = attention.get_submodule((row.queries, row.keys, row.values)[position])
    times = 1 if field_name == "values" else row.runs(attention)
    point = Point(module, read_output, *(times * number for number in runs))
    if row.queries == row.values:
        return Tap((point,), lambda fused: fused.chunk(3, dim=-1)[position])
    return Tap((point,), lambda value: value.flatten(2))


def split_heads(value: Tensor, heads: int) -> Tensor:
    """`[batch, length, heads * size]` to `[batch, heads, length, size]`."""
    return value.view(*value.shape[:2], heads, -1).transpose(1, 2)


def rotate(value: Tensor, cos: Tensor, sin: Tensor, *, pairs: bool = False) -> Tensor:
    """Rotary position embedding of the halves of each head, or of neighbouring numbers (Su et al., 2021,
    arXiv:2104.09864)."""
    if pairs:
        turned = torch.stack((-value[..., 1::2], value[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = value.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    return value * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def rotated(row: Family, attention: nn.Module, shape: StackShape, signal: Signal, runs: tuple[int, int]) -> Tap:
    """Queries or keys as the attention multiplies them; where the family rotates nothing, as they are."""
    name = signal.field.removeprefix("rotated_")
    plain = projection(row, attention, name, runs)
    if row.scores != "rotary":
        return plain
    heads = shape.num_attention_heads if name == "queries" else shape.num_key_value_heads

    def combine(value: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        states = split_heads(plain.combine(value), heads)
        return rotate(states, *rotation, pairs=row.turns_pairs).transpose(1, 2).flatten(2)

    return Tap((*plain.points, Point(attention, read_rotation, *runs)), combine)


def scores(row: Family, attention: nn.Module, shape: StackShape, signal: Signal, runs: tuple[int, int]) -> Tap:
    """Scores before mask and softmax, recomputed from queries and keys as the family does, in at least float32."""
    if not row.scores:
        raise IncompatiblePair(
            f"{signal}: {type(attention).__name__} adds position terms to its scores, so they cannot be recomputed "
            "exactly from queries and keys; read queries, keys or values instead."
        )
    queries, keys = (projection(row, attention, name, runs) for name in ("queries", "keys"))
    scale = float(getattr(attention, "scaling", shape.head_size**-0.5))
    groups = shape.num_attention_heads // shape.num_key_value_heads
    cap = getattr(attention, "attn_logit_softcapping", None)

    def plain(query: Tensor, key: Tensor) -> Tensor:
        return torch.matmul(query, key.transpose(2, 3)) * scale

    def rotary(query: Tensor, key: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        found = plain(*(rotate(each, *rotation, pairs=row.turns_pairs) for each in (query, key)))
        return found if cap is None else torch.tanh(found / cap) * cap

    def biased(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        return plain(query, key) + bias

    def combine(query: Tensor, key: Tensor, *position: Any) -> Tensor:
        query = split_heads(at_least_float32(queries.combine(query)), shape.num_attention_heads)
        key = split_heads(at_least_float32(keys.combine(key)), shape.num_key_value_heads)
        if groups > 1:
            key = key.repeat_interleave(groups, dim=1)
        with torch.autocast(query.device.type, enabled=False):
            return forms[row.scores](query, key, *position)

    forms: dict[str, Callable[..., Tensor]] = {"plain": plain, "rotary": rotary}
    forms |= {"returned_bias": biased, "given_bias": biased}
    reads: dict[str, Read] = {
        "rotary": read_rotation, "returned_bias": read_returned_bias, "given_bias": read_given_bias,
    }  # fmt: skip
    position = (Point(attention, reads[row.scores], *runs),) if row.scores in reads else ()
    return Tap(queries.points + keys.points + position, combine)
