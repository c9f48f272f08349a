"""Sums over the rows of a large vocabulary, taken through the head some rows at a time.

Tensors and functions in, a scalar with its gradient out. `[rows, vocabulary]` never exists: a chunk of rows goes
through the head, its losses are differentiated in smaller blocks that stay in a processor's cache, and the chunk's
gradient is added up at once. Memory is that of a chunk and of the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hf_distill.errors import DistillationError

Head = Callable[[Tensor], Tensor]
RowLoss = Callable[[Tensor, Any, Tensor], Tensor]
"""Logits `[rows, vocabulary]`, the teacher's rows and their positions, to one value a row."""

CPU_CHUNK, CPU_BLOCK = 2**23, 2**19
"""Logits of a chunk, and of the blocks in which its losses are taken: on a CPU a chunk is what a matrix product needs
to be quick without memory that has to be asked of the system anew, a block what stays in the cache."""
CPU_ROWS = (128, 1024)
"""The fewest and the most rows of a chunk. With fewer, adding to the gradient of a large head takes over."""
CHUNK, ROWS = 2**26, (256, 4096)
"""The same on an accelerator, which takes a chunk's losses at once."""


class Sizes(NamedTuple):
    """Rows of a chunk, and of the blocks that it is made of."""

    chunk: int
    block: int

    @classmethod
    def of(cls, vocabulary: int, device: torch.device) -> Sizes:
        """As many rows as give a chunk of `CPU_CHUNK` or `CHUNK` logits, within `CPU_ROWS` or `ROWS`."""
        if device.type != "cpu":
            rows = _between(CHUNK // vocabulary, *ROWS)
            return cls(rows, rows)
        block = max(1, CPU_BLOCK // vocabulary)
        blocks = max(1, _between(CPU_CHUNK // vocabulary, *CPU_ROWS) // block)
        return cls(block * blocks, block)


def _between(number: int, low: int, high: int) -> int:
    return min(max(number, low), high)


class Rows:
    """The positions that any loss counts, and what each loss weighs them with.

    `weights` `[losses, batch * length]` is 0 where a loss does not count a position. The positions are put in order,
    those that the same losses count side by side, so that most blocks are wholly counted by a loss or not at all, and
    what does not count is not computed. How many count is read by the host: at once on a CPU; elsewhere the copy is
    on its way while the models run.
    """

    def __init__(self, weights: Tensor, sizes: Sizes) -> None:
        self.sizes = sizes
        counted = weights != 0
        places = 2 ** torch.arange(len(weights), device=weights.device)
        order = (counted * places.unsqueeze(1)).sum(0).argsort(descending=True, stable=True)
        self.positions, self.weights = order, weights[:, order]
        either = torch.cat([counted, counted.any(0, keepdim=True)])[:, order]
        padded = functional.pad(either, (0, -either.shape[1] % sizes.block))
        numbers = padded.view(len(either), -1, sizes.block).sum(-1)
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._arrived: Any = None
        if numbers.device.type != "cpu":
            self._arrived = torch.Event(numbers.device)
            self._arrived.record()

    def numbers(self) -> list[list[int]]:
        """Of each loss, and last of any of them, how many rows of each block count."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[list[int]] = self._numbers.tolist()
        return numbers


class Sums(NamedTuple):
    """`total`, with gradient, and the sum of each loss, without."""

    total: Tensor
    sums: Tensor


class ThroughHead(NamedTuple):
    """Losses over the rows of a vocabulary.

    `head` takes states `[1, rows, width]` to logits, `teacher` positions to what the losses compare these with, and
    `coefficients` say what each loss's sum is multiplied by in the total. `head_parameters` and `loss_parameters` are
    those that head and losses depend on; the ones that train get a gradient.
    """

    head: Head
    teacher: Callable[[Tensor], Any]
    losses: Sequence[RowLoss]
    coefficients: Sequence[Tensor | float]
    head_parameters: Sequence[Tensor]
    loss_parameters: Sequence[Tensor]

    def __call__(self, hidden: Tensor, rows: Rows) -> Sums:
        """sum_i c_i sum_r w_ir loss_i(head(hidden_r)), `hidden` `[batch, length, width]`, in at least float32.

        Value and gradient are both formed here; the backward pass only scales the gradient, and runs once. Logits are
        made in the precision that is active, the losses outside autocast.
        """
        parameters = [p for p in (*self.head_parameters, *self.loss_parameters) if p.requires_grad]
        with_gradient = torch.is_grad_enabled()
        return Sums(*_ThroughHead.apply(self, rows, with_gradient, hidden, *parameters))  # type: ignore[no-untyped-call]


class _ThroughHead(torch.autograd.Function):
    """The sums of `ThroughHead`; kept for the backward pass are the gradients themselves.

    They are formed as if the total were multiplied by the number of rows, which keeps those of a half-precision head
    away from 0, and divided at the end. Parameters are arguments, so that whoever waits for their gradients (an
    engine's hooks) learns of them.
    """

    @staticmethod
    def forward(
        ctx: Any, losses: ThroughHead, rows: Rows, with_gradient: bool, hidden: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        work = _Pass(losses, rows, hidden, with_gradient and any(ctx.needs_input_grad))
        sums = work.run()
        total = torch.zeros_like(sums[0])
        for value, coefficient in zip(sums, losses.coefficients, strict=True):
            total = total + value * coefficient
        ctx.mark_non_differentiable(sums)
        ctx.gradients = work.gradients(hidden, parameters)
        ctx.number = work.number
        return total, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise DistillationError(
                "the loss over a large vocabulary was differentiated twice; its gradient is given away the first "
                "time. Call the forward pass again."
            )
        gradients, ctx.gradients = ctx.gradients, None
        scale = upstream / ctx.number
        return None, None, None, *[gradient.mul_(scale).to(dtype) for gradient, dtype in gradients]


class _Pass:
    """One pass over all chunks, and what it adds up."""

    def __init__(self, losses: ThroughHead, rows: Rows, hidden: Tensor, with_gradient: bool) -> None:
        self.losses, self.rows, self.with_gradient = losses, rows, with_gradient
        self.states = hidden.detach().flatten(0, 1)
        self.numbers = rows.numbers()
        self.counted = sum(self.numbers[-1])
        self.number = max(self.counted, 1)
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.coefficients = [coefficient * self.number for coefficient in losses.coefficients]
        self.sums = torch.zeros(len(losses.losses), dtype=self.dtype, device=hidden.device)
        self.to_states = torch.empty(
            (self.counted if with_gradient else 0, hidden.shape[-1]), dtype=self.dtype, device=hidden.device
        )
        self.to_head = _Gradients(losses.head_parameters if with_gradient else ())
        self.to_losses = _Gradients(losses.loss_parameters if with_gradient else ())

    def run(self) -> Tensor:
        """The sum of each loss."""
        linears = _Linears(self.to_head)
        for start in range(0, self.counted, self.rows.sizes.chunk):
            self._add(slice(start, min(start + self.rows.sizes.chunk, self.counted)), linears)
        return self.sums

    def _add(self, some: slice, linears: _Linears) -> None:
        """Adds the sums and the gradients of a chunk, whose logits are gone before those of another are made."""
        positions = self.rows.positions[some]
        leaf = self.states[positions].requires_grad_(self.with_gradient)
        with torch.set_grad_enabled(self.with_gradient), linears:
            logits = self.losses.head(leaf.unsqueeze(0)).squeeze(0)
        against = self.losses.teacher(positions)
        with torch.autocast(leaf.device.type, enabled=False):
            to_logits = self._compare(logits.detach(), against, some)
            if self.with_gradient:
                (self.to_states[some],) = self.to_head.add(logits, [leaf], to_logits)

    def _compare(self, logits: Tensor, against: Any, some: slice) -> Tensor:
        """Adds the sums of a chunk, block by block, and gives their gradient in the logits."""
        to_logits = torch.empty_like(logits) if self.with_gradient else logits
        for start in range(some.start, some.stop, self.rows.sizes.block):
            block = slice(start, min(start + self.rows.sizes.block, some.stop))
            place = slice(block.start - some.start, block.stop - some.start)
            with torch.set_grad_enabled(self.with_gradient):
                leaf = logits[place].detach().requires_grad_(self.with_gradient)
                total = self._weighted(leaf, None if against is None else against[place], block)
            if self.with_gradient:
                (to_logits[place],) = self.to_losses.add(total, [leaf])
        return to_logits

    def _weighted(self, logits: Tensor, against: Any, block: slice) -> Tensor:
        """Adds the sums of a block, and gives their weighted total."""
        positions, number = self.rows.positions[block], block.start // self.rows.sizes.block
        total = torch.zeros((), dtype=self.dtype, device=logits.device)
        for i, loss in enumerate(self.losses.losses):
            if self.numbers[i][number]:
                values, weights = loss(logits, against, positions), self.rows.weights[i, block]
                value = torch.where(weights != 0, values * weights, 0.0).sum()
                self.sums[i] += value.detach()
                total = total + value * self.coefficients[i]
        return total

    def gradients(self, hidden: Tensor, parameters: Sequence[Tensor]) -> list[tuple[Tensor, torch.dtype]]:
        """Those of the states and of the parameters, and the precision that each is wanted in."""
        if not self.with_gradient:
            return []
        whole = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
        whole.flatten(0, 1).index_copy_(0, self.rows.positions[: self.counted], self.to_states)
        found = [whole, *self.to_head.sums, *self.to_losses.sums]
        return [(gradient, of.dtype) for gradient, of in zip(found, (hidden, *parameters), strict=True)]


class _Gradients:
    """The gradients of those parameters that train, added up in at least float32."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in self.parameters]

    def add(self, value: Tensor, leaves: list[Tensor], upstream: Tensor | None = None) -> list[Tensor]:
        """Differentiates `value`, adds what the parameters get, and gives what the leaves get."""
        if not value.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(value, [*leaves, *self.parameters], upstream, allow_unused=True)
        for sum_, gradient in zip(self.sums, found[len(leaves) :], strict=True):
            if gradient is not None:
                sum_.add_(gradient)
        pairs = zip(leaves, found, strict=False)
        return [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in pairs]

    def of(self, parameter: Any) -> Tensor | None:
        """The sum for a parameter, None if it does not train."""
        pairs = zip(self.parameters, self.sums, strict=True)
        return next((sum_ for candidate, sum_ in pairs if candidate is parameter), None)


class _Linears(TorchFunctionMode):
    """Where a trained parameter is the weight of a linear map, its gradient is added in place.

    Autograd would make a gradient of the size of the head for every chunk, and then add it: three passes over memory
    instead of one, as costly as the losses themselves.
    """

    def __init__(self, gradients: _Gradients) -> None:
        super().__init__()
        self.gradients = gradients
        self._casts: dict[tuple[int, torch.dtype], Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear and not kwargs:
            states, weight, bias = (*args, None)[:3]
            to_weight, to_bias = self.gradients.of(weight), self.gradients.of(bias)
            # A bias that is computed has its parameters behind it, which autograd finds.
            constant = bias is None or not bias.requires_grad
            if to_weight is not None and (constant or to_bias is not None):
                dtype = _autocast_dtype(states) or states.dtype
                layer = _Layer(self._cast(weight, dtype), self._cast(bias, dtype), to_weight, to_bias)
                return _Linear.apply(states.to(dtype), layer)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))

    def _cast(self, parameter: Any, dtype: torch.dtype) -> Any:
        if parameter is None or parameter.dtype == dtype:
            return parameter
        if not isinstance(parameter, nn.Parameter):  # computed anew for every chunk
            return parameter.detach().to(dtype)
        key = (id(parameter), dtype)
        if key not in self._casts:
            self._casts[key] = parameter.detach().to(dtype)
        return self._casts[key]


def _autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class _Layer(NamedTuple):
    """Weight and bias of a linear map, and where their gradients are added up."""

    weight: Tensor
    bias: Tensor | None
    to_weight: Tensor
    to_bias: Tensor | None


class _Linear(torch.autograd.Function):
    """x W^T + b, whose backward pass adds to the gradients of W and b in place."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: _Layer) -> Tensor:
        ctx.save_for_backward(states)
        ctx.layer = layer
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states, layer.weight, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (states,), layer = ctx.saved_tensors, ctx.layer
        flat, rows = upstream.flatten(0, -2), states.flatten(0, -2)
        left, right = flat.mT, rows
        if flat.dtype == torch.float16:  # the sum over the rows may be beyond its largest number
            left, right = (factor.to(layer.to_weight.dtype) for factor in (left, right))
        if left.dtype == layer.to_weight.dtype:
            # Not in place by addmm_: counters of arithmetic know addmm alone.
            torch.addmm(layer.to_weight, left, right, out=layer.to_weight)
        else:
            layer.to_weight.add_(left @ right)
        if layer.to_bias is not None:
            layer.to_bias.add_(flat.sum(0, dtype=layer.to_bias.dtype))
        return upstream @ layer.weight, None
