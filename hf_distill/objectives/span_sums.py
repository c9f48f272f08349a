"""Sums over spans of text that two models read in tokens of their own, taken some spans at a time.

Tensors in, a scalar with its gradient out. What is held is the logits as the models gave them, the gradient of the
student's, and the float32 laws of a block of spans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hf_distill.chunks import Sizes
from hf_distill.losses import at_least_float32, blank

SMALLEST = 1e-8
"""Probabilities of tokens that scale a span are at least this."""

LOG_SMALLEST = math.log(SMALLEST)

COPIES = 4
"""Tensors of spans x words that a block holds at its peak, beside what other losses do: those of sorting."""

SpanLoss = Callable[[Tensor, Tensor], Tensor]
"""Log-laws of the student `[spans, words]` and of the teacher `[spans, its words]` to values `[spans, parts]`."""


class Side(NamedTuple):
    """What one model says of a batch: `logits` `[batch, length, words]`, the token that each row is about `tokens`
    `[batch, length]`, and the number of its span in `spans`, -1 for none.

    Of a span that is several tokens long the law is that of its last token or, with `last=False`, of its first one;
    the probabilities of the other tokens multiply it.
    """

    logits: Tensor
    tokens: Tensor
    spans: Tensor
    temperature: float
    last: bool


class Sums(NamedTuple):
    """The weighted total of the parts, with gradient, and the sum of each part, without."""

    total: Tensor
    parts: Tensor


def span_sums(
    student: Side, teacher: Side, loss: SpanLoss, weights: Tensor, factors: Sequence[float], counted: Tensor
) -> Sums:
    """sum_part f_part sum_span w_span loss_part(span), with `weights` and `counted` `[batch, spans]`, in at least
    float32.

    Value and gradient are both formed here; the backward pass only scales the gradient, and runs once.
    """
    work = _Work(student, teacher, loss, weights, factors, counted)
    return Sums(*_SpanSums.apply(work, torch.is_grad_enabled(), student.logits))  # type: ignore[no-untyped-call]


def both_sided(student_spans: Tensor, teacher_spans: Tensor) -> Tensor:
    """Which spans have tokens on both sides, `[batch, spans]`, as many as there can be."""
    slots = min(student_spans.shape[1], teacher_spans.shape[1])
    return _has(student_spans, slots) & _has(teacher_spans, slots)


def in_spans(spans: Tensor, counted: Tensor) -> Tensor:
    """Which tokens are in a span that counts."""
    none = counted.new_zeros(len(counted), 1)
    return torch.cat([counted, none], 1).gather(1, _bins(spans, counted.shape[1]))


def _has(spans: Tensor, slots: int) -> Tensor:
    found = torch.zeros(len(spans), slots + 1, dtype=torch.bool, device=spans.device)
    return found.scatter_(1, _bins(spans, slots), True)[:, :slots]


def _bins(spans: Tensor, slots: int) -> Tensor:
    """The span of each token, `slots` for none."""
    return torch.where((spans >= 0) & (spans < slots), spans, slots)


class _SpanSums(torch.autograd.Function):
    """The sums; kept for the backward pass is the gradient itself, as if the largest weight were 1: so that of
    half-precision logits stays away from 0."""

    @staticmethod
    def forward(ctx: Any, work: _Work, with_gradient: bool, logits: Tensor) -> tuple[Tensor, Tensor]:
        parts, ctx.gradient = work.run(with_gradient and ctx.needs_input_grad[2])
        ctx.largest = work.largest
        ctx.mark_non_differentiable(parts)
        return work.total(parts), parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.gradient * (upstream * ctx.largest).to(ctx.gradient.dtype)


class _Work:
    """One pass over all spans."""

    def __init__(
        self, student: Side, teacher: Side, loss: SpanLoss, weights: Tensor, factors: Sequence[float], counted: Tensor
    ) -> None:
        self.loss, self.factors, self.counted = loss, factors, counted.flatten()
        self.weights = weights.flatten()
        largest = functional.pad(torch.where(self.counted, self.weights, 0.0), (0, 1)).amax()
        self.largest = torch.where(largest > 0, largest, 1.0)
        self.ours, self.theirs = _Laws(student, counted), _Laws(teacher, counted)
        words = max(student.logits.shape[-1], teacher.logits.shape[-1])
        self.block = Sizes.of(COPIES * words, student.logits.device).block

    def total(self, parts: Tensor) -> Tensor:
        """The weighted total of the parts."""
        return torch.stack([part * factor for part, factor in zip(parts, self.factors, strict=True)]).sum()

    def run(self, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """The sum of each part, and the gradient of the weighted total over `largest` in the student's logits."""
        ours, theirs = self.ours, self.theirs
        scales, gradient = (ours.scales(self.block), theirs.scales(self.block)), None
        parts = self.weights.new_zeros(len(self.factors))
        if with_gradient:
            gradient = torch.zeros_like(ours.side.logits)
        to_scales = torch.zeros_like(scales[0])
        for some in _blocks(self.counted, self.block):
            kept = self.counted[some]
            law = theirs.law(theirs.rows(some, kept), scales[1][some])
            rows, scale = ours.rows(some, kept), scales[0][some]
            with torch.set_grad_enabled(with_gradient):
                rows.requires_grad_(with_gradient)
                scale = scale.detach().requires_grad_(with_gradient)
                values = self.loss(ours.law(rows, scale), law)
                kept_values = torch.where(kept.unsqueeze(1), values * self.weights[some].unsqueeze(1), 0.0)
                sums = kept_values.sum(0)
                total = self.total(sums) / self.largest
            parts += sums.detach()
            if gradient is not None:
                to_rows, to_scale = torch.autograd.grad(total, [rows, scale], materialize_grads=True)
                gradient.view(-1, gradient.shape[-1]).index_add_(0, ours.place(some), to_rows.to(gradient.dtype))
                to_scales[some] = to_scale
        if gradient is not None:
            ours.differentiate_scales(to_scales, gradient.view(-1, gradient.shape[-1]), self.block)
        return parts, gradient


class _Laws:
    """What one side says of each span: the row of its law, and the logarithm of what multiplies it."""

    def __init__(self, side: Side, counted: Tensor) -> None:
        self.side, (examples, slots) = side, counted.shape
        length = side.spans.shape[1]
        bins = _bins(side.spans, slots)
        places = torch.arange(length, device=bins.device).expand_as(bins)
        chosen = places.new_zeros(examples, slots + 1)
        chosen = chosen.scatter_reduce(1, bins, places, "amax" if side.last else "amin", include_self=False)
        within = in_spans(side.spans, counted)
        firsts = torch.arange(examples, device=bins.device).unsqueeze(1)
        self.bases = (chosen[:, :slots] + firsts * length).flatten()
        self.scaling = (within & (places != chosen.gather(1, bins))).flatten()
        self.slots = (bins.clamp(max=max(slots - 1, 0)) + firsts * slots).flatten()
        self.number = counted.numel()
        self.logits, self.tokens = side.logits.detach().flatten(0, 1), side.tokens.flatten().clamp(min=0)
        self._log_probabilities: Tensor | None = None

    def place(self, some: Tensor) -> Tensor:
        """The rows whose laws some spans have."""
        return self.bases[some]

    def rows(self, some: Tensor, kept: Tensor) -> Tensor:
        """The logits of some spans, zeros for those that do not count."""
        return blank(at_least_float32(self.logits[self.bases[some]]), kept)

    def law(self, rows: Tensor, scale: Tensor) -> Tensor:
        """The logarithm of the law of some spans, times what multiplies it."""
        return functional.log_softmax(rows / self.side.temperature, -1) + scale.unsqueeze(1)

    def scales(self, block: int) -> Tensor:
        """The logarithm of the product of the probabilities of a span's other tokens, for every span."""
        dtype = at_least_float32(self.logits[:0]).dtype
        found = torch.zeros(len(self.logits), dtype=dtype, device=self.logits.device)
        for some in _blocks(self.scaling, block):
            law = functional.log_softmax(self._softened(some), -1)
            found[some] = law.gather(1, self.tokens[some].unsqueeze(1)).squeeze(1)
        self._log_probabilities = found
        kept = torch.where(self.scaling, found.clamp(min=LOG_SMALLEST), 0.0)
        return torch.zeros(self.number, dtype=dtype, device=found.device).index_add_(0, self.slots, kept)

    def differentiate_scales(self, upstream: Tensor, gradient: Tensor, block: int) -> None:
        """Adds to the gradient of the logits what the tokens that scale spans get."""
        assert self._log_probabilities is not None
        moves = self.scaling & (self._log_probabilities > LOG_SMALLEST)
        for some in _blocks(self.scaling, block):
            weight = torch.where(moves[some], upstream[self.slots[some]], 0.0) / self.side.temperature
            to_rows = functional.softmax(self._softened(some), -1).neg_()
            to_rows.scatter_add_(1, self.tokens[some].unsqueeze(1), torch.ones_like(to_rows[:, :1]))
            gradient.index_add_(0, some, (to_rows * weight.unsqueeze(1)).to(gradient.dtype))

    def _softened(self, some: Tensor) -> Tensor:
        return blank(at_least_float32(self.logits[some]), self.scaling[some]) / self.side.temperature


def _blocks(chosen: Tensor, block: int) -> Any:
    """The places that are chosen, so many at a time. Only a CPU knows their number without waiting: elsewhere all
    places come, the chosen ones first."""
    order = chosen.int().argsort(descending=True, stable=True)
    number = int(chosen.sum()) if chosen.device.type == "cpu" else len(order)
    return (order[start : min(start + block, number)] for start in range(0, number, block))
