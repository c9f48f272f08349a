"""Relations between the positions of a text: softmax laws over positions, and the divergence of two models' laws.

A relation of two projections X, Y `[batch, length, width]` over A relation heads splits the width into A parts of
size d and is, in each head, softmax(x y^T / sqrt(d)) over the positions that a position sees. Student and teacher have
equal heads and lengths; their widths are their own. The laws of attention scores that are there already are compared
in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hf_distill.errors import DataError

Sides = tuple[Tensor, Tensor]

CPU_BLOCK, BLOCK = 2**19, 2**25
"""Entries of a relation that are worked on at once: what stays in a processor's cache, and on an accelerator what
keeps a kernel busy without filling its memory."""


def visible_pairs(mask: Tensor, causal: bool, position_ids: Tensor | None = None) -> Tensor:
    """Which keys (last axis) each query sees, boolean `[batch, length, length]`.

    Both are real tokens (`mask` `[batch, length]` is 1 on them), a `causal` query sees no key after itself, and where
    `position_ids` are given, both lie in one document. A packed row's document starts wherever a position is not the
    one before plus one, as at every reset to 0.

    Raises: `DataError` for position ids of another shape.
    """
    return _visible(mask.bool(), causal, _documents(position_ids, mask), slice(None))


def _documents(position_ids: Tensor | None, mask: Tensor) -> Tensor | None:
    """The number of each position's document in its row, `[batch, length]`; None where rows are not packed."""
    if position_ids is None:
        return None
    examples, length = mask.shape
    if tuple(position_ids.shape) not in ((examples, length), (1, length)):
        raise DataError(
            f"position_ids have the shape {tuple(position_ids.shape)}, the text {tuple(mask.shape)}; they must be "
            "[batch, length], or be left out where no row holds several documents."
        )
    starts = position_ids[:, 1:] != position_ids[:, :-1] + 1
    return functional.pad(starts.cumsum(1), (1, 0)).expand(examples, -1)


def _visible(mask: Tensor, causal: bool, documents: Tensor | None, queries: slice) -> Tensor:
    visible = mask[:, queries, None] & mask[:, None, :]
    if causal:
        positions = torch.arange(mask.shape[1], device=mask.device)
        visible = visible & (positions[queries, None] >= positions)
    if documents is not None:
        visible = visible & (documents[:, queries, None] == documents[:, None, :])
    return visible


def relation_kl(
    student: Sides,
    teacher: Sides,
    *,
    heads: int,
    mask: Tensor,
    causal: bool = False,
    position_ids: Tensor | None = None,
) -> Tensor:
    """(1/A) sum_a sum_t KL(R_teacher[a, t] || R_student[a, t]), t over the real queries of each example: `[batch]`.

    `student`, `teacher`: X and Y, each `[batch, length, A * size]`; the same tensor twice is a relation with itself.
    The keys that a query sees are those of `visible_pairs`. What stands in padding does not matter, not even NaN, and
    gets no gradient; nor does the teacher. Computed in the wider of both dtypes, at least float32.

    The gradient is formed in the forward pass, block by block (`CPU_BLOCK`, `BLOCK`), so that no relation of a whole
    batch is ever held: memory is that of X and Y, and the softmax is taken once. It cannot be differentiated twice.
    """
    left, right = student
    sums: Tensor = _RelationKL.apply(  # type: ignore[no-untyped-call]
        left, None if right is left else right, *teacher, mask.bool(), _documents(position_ids, mask), heads, causal
    )
    return sums


class _RelationKL(torch.autograd.Function):
    """The sums of `relation_kl`; saved for the backward pass are the gradients themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        right: Tensor | None,
        teacher_left: Tensor,
        teacher_right: Tensor,
        mask: Tensor,
        documents: Tensor | None,
        heads: int,
        causal: bool,
    ) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(left.dtype, teacher_left.dtype), torch.float32)
        sums = torch.zeros(len(mask), dtype=dtype, device=left.device)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        gradients = [torch.zeros_like(side, dtype=dtype) for side in (left, right) if wanted and side is not None]
        examples, length = mask.shape
        for block in _blocks(examples, length, heads, CPU_BLOCK if left.device.type == "cpu" else BLOCK):
            real = mask[block.examples]
            numbers = None if documents is None else documents[block.examples]
            barrier = _barrier(_visible(real, causal, numbers, block.queries), dtype)
            x, y = _rows(left, right, block, real, heads, dtype)
            ours = _laws(x, y, block, barrier)
            theirs = _laws(*_rows(teacher_left, teacher_right, block, real, heads, dtype), block, barrier)
            divergences = _by_example(_divergences(ours, theirs), real).sum(1)
            sums[block.examples] += divergences.masked_fill_(~real[:, block.queries], 0.0).sum(1) / heads
            if wanted:
                _add_gradients(gradients, ours.law.sub_(theirs.law), x, y, block, real.to(dtype), heads)
        ctx.save_for_backward(*gradients)
        ctx.dtype = left.dtype
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [(saved * upstream[:, None, None]).to(ctx.dtype) for saved in ctx.saved_tensors]
        left, right = (*gradients, None)[:2]
        return (left, right, *[None] * 6)


def scores_kl(student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """(1/A) sum_a KL(p[a, t] || q[a, t]) of each query t, `[batch, length]`.

    p, q: the softmax of teacher's and student's scores `[batch, heads, length, length]` of head a over the keys that
    query t sees (`visible_pairs`). Scores of other keys do not matter, not even NaN, and get no gradient; nor does the
    teacher. A query that sees no key has the value 0. Computed in the wider of both dtypes, at least float32.

    As in `relation_kl` the gradient is formed in the forward pass, block by block, and is all that is kept. It cannot
    be differentiated twice.
    """
    values: Tensor = _ScoresKL.apply(student, teacher, visible)  # type: ignore[no-untyped-call]
    return values


class _ScoresKL(torch.autograd.Function):
    """The values of `scores_kl`; saved for the backward pass is q - p."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        examples, heads, length, _ = student.shape
        values = torch.zeros(examples, length, dtype=dtype, device=student.device)
        difference = torch.empty_like(student, dtype=dtype) if ctx.needs_input_grad[0] else None
        lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=student.device)
        for block in _blocks(examples, length, heads, CPU_BLOCK if student.device.type == "cpu" else BLOCK):
            seen = visible[block.examples, block.queries].unsqueeze(1)
            ours, theirs = (_law(torch.where(seen, scores[block].to(dtype), lowest)) for scores in (student, teacher))
            values[block.examples, block.queries] += _divergences(ours, theirs).sum(1) / heads
            if difference is not None:
                torch.sub(ours.law, theirs.law, out=difference[block])
        ctx.save_for_backward(difference)
        ctx.dtype = student.dtype
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        weights = (upstream / difference.shape[1])[:, None, :, None]
        return (difference * weights).to(ctx.dtype), None, None


class _Block(NamedTuple):
    """The part of a relation that is worked on at once."""

    examples: slice
    heads: slice
    queries: slice


def _blocks(examples: int, length: int, heads: int, entries: int) -> Iterator[_Block]:
    """Parts of at most `entries` entries, or of one query: examples are parted first, then heads, then queries."""
    queries = min(length, max(1, entries // length))
    some_heads = min(heads, max(1, entries // (queries * length)))
    some_examples = max(1, entries // (some_heads * queries * length))
    for example in range(0, examples, some_examples):
        for head in range(0, heads, some_heads):
            for query in range(0, length, queries):
                yield _Block(
                    slice(example, min(example + some_examples, examples)),
                    slice(head, min(head + some_heads, heads)),
                    slice(query, min(query + queries, length)),
                )


def _by_example(tensor: Tensor, examples: Tensor) -> Tensor:
    """A view of `[examples * heads, ...]` as `[examples, heads, ...]`."""
    return tensor.view(len(examples), -1, *tensor.shape[1:])


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """A view of `[examples, length, heads * size]` as `[examples, length, heads, size]`."""
    return tensor.view(*tensor.shape[:-1], heads, -1)


def _rows(left: Tensor, right: Tensor | None, block: _Block, real: Tensor, heads: int, dtype: torch.dtype) -> Sides:
    """X and Y of a block, `[examples * heads, length, size]`, over size^(1/4), zeros in padding."""

    def rows(side: Tensor) -> Tensor:
        some = _by_head(side[block.examples], heads)[:, :, block.heads].transpose(1, 2)
        copied = torch.empty(some.shape, dtype=dtype, device=some.device).copy_(some)
        return copied.masked_fill_(~real[:, None, :, None], 0.0).mul_(some.shape[-1] ** -0.25).flatten(0, 1)

    x = rows(left)
    return x, x if right is None or right is left else rows(right)


def _barrier(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores `[examples, 1, queries, length]`: the lowest number where a key is not seen.

    Not -inf: the probability is 0 all the same, and a query that sees no key has a law, too, instead of NaN.
    """
    barrier = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return barrier.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


class _Laws(NamedTuple):
    """Scores of a block `[..., queries, length]`, their softmax, and of each query the largest score and the
    logarithm of its probability.
    """

    scores: Tensor
    law: Tensor
    peak: Tensor
    log_of_peak: Tensor


def _laws(x: Tensor, y: Tensor, block: _Block, barrier: Tensor) -> _Laws:
    scores = torch.bmm(x[:, block.queries], y.mT)
    _by_example(scores, barrier).add_(barrier)
    return _law(scores)


def _law(scores: Tensor) -> _Laws:
    law = functional.softmax(scores, -1)
    return _Laws(scores, law, scores.amax(-1), law.amax(-1).log())


def _divergences(ours: _Laws, theirs: _Laws) -> Tensor:
    """sum_s p (log p - log q) of each query, `[..., queries]`; overwrites the teacher's scores.

    log p is the score, less the largest one, plus the logarithm of the largest probability, which is never near 0. On
    a CPU log_softmax and its exp take several times as long. Terms of one kind are subtracted first: with one key seen
    the result is 0 to the last digit.
    """
    crossed = theirs.scores.sub_(ours.scores).mul_(theirs.law).sum(-1)
    return crossed + (ours.peak - theirs.peak) + (theirs.log_of_peak - ours.log_of_peak)


def _add_gradients(
    gradients: list[Tensor], difference: Tensor, x: Tensor, y: Tensor, block: _Block, real: Tensor, heads: int
) -> None:
    """Adds a block's gradient to those of X and Y; `difference` is q - p, the gradient in the scores.

    Rows of padded queries are no part of the loss: theirs to X are cut by `real`, theirs to Y vanish with x = 0.
    """
    weights = real[:, :, None, None] * (x.shape[-1] ** -0.25 / heads)
    to_x, to_y = torch.bmm(difference, y), torch.bmm(difference.mT, x[:, block.queries])
    for gradient, rows, part in ((gradients[0], block.queries, to_x), (gradients[-1], slice(None), to_y)):
        place = _by_head(gradient[block.examples, rows], heads)[:, :, block.heads]
        place.addcmul_(_by_example(part, real).transpose(1, 2), weights[:, rows])
