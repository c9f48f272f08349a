"""Hidden states in fewer bytes than float16 takes: eight bits a channel, or a few where the head looks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill.errors import CacheMismatch, DistillationError
from hf_distill.teachers.cache.codecs import Axes, Codec, Head, Layout, Parts, codec
from hf_distill.teachers.cache.rotation import FEWEST_BITS, MOST_BITS, Rotation
from hf_distill.teachers.cache.rounding import Sensitivity, round_in_turn

LARGEST = 127

NARROWEST = 0.1
"""The least range of a channel, as a share of their median. What is lost in a narrower one is little beside the others
all the same, and a row that is wider there than the sample was would take its scale, and so the bits of all."""


@codec("int8")
class Int8(Codec):
    """One byte a channel: x_c = a r_c q_c with q_c in -127 … 127, r_c the largest |x_c| of the sample (kept once) and
    a = max_c |x_c / r_c| / 127 of the row in float16. A row takes width + 2 bytes.

    The scale by channel is what the few large channels of language models need: without it they take all of the range.

    Errors: `DistillationError` for a row whose scale float16 does not hold, when it is written.
    """

    def __init__(self) -> None:
        self._ranges = torch.ones(0)

    def fit(self, sample: Tensor, head: Head | None = None) -> None:
        ranges = sample.abs().amax(0)
        widest = ranges.amax().clamp(min=torch.finfo(torch.float16).tiny)
        seen = ranges[ranges > 0]
        least = NARROWEST * (seen if len(seen) else widest).median()
        # A channel that the sample has not seen may be of any size: the widest of the others.
        self._ranges = torch.where(ranges > 0, ranges.clamp(min=least), widest)

    def encode(self, rows: Tensor) -> Parts:
        scaled = rows / self._ranges
        scales = (scaled.abs().amax(-1, keepdim=True) / LARGEST).half()
        if not bool(scales.isfinite().all()):
            raise DistillationError(
                f"int8: a row of the teacher is {float(scaled.abs().amax()):.0e} times as wide in a channel as the "
                "rows that the channels' ranges were taken of, and such a scale is beyond float16. Write the cache in "
                "bfloat16 or float32, or, where this folder is of other data, into another folder."
            )
        values = scaled / torch.where(scales > 0, scales, 1).float()
        return {"values": values.round().clamp(-LARGEST, LARGEST).to(torch.int8), "scales": scales}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["values"].float() * parts["scales"].float() * self._ranges

    def layout(self, width: int) -> Layout:
        return {"values": (torch.int8, (width,)), "scales": (torch.float16, (1,))}

    def fitted_width(self) -> int:
        return len(self._ranges)

    def state(self) -> Parts:
        return {"ranges": self._ranges.cpu()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if set(state) != {"ranges"} or state["ranges"].dim() != 1 or not state["ranges"].is_floating_point():
            raise CacheMismatch("the codec 'int8' keeps the ranges of its channels, and the cache holds other tables.")
        self._ranges = state["ranges"].float()

    def place(self, device: torch.device) -> None:
        self._ranges = self._ranges.to(device)


@codec("rotated")
class Rotated(Codec):
    """Some bits a channel, `bits` on average, of the state in the axes in which a language model's head looks at it.

    The loss that matters is KL(p(h) || p(h')) of the head's laws, e M(h) e^T / 2 for a small error e = h' - h, where
    M(h) = W^T (diag(p) - p p^T) W with the head's slopes W (Fisher's information). Three steps follow from that:

    1. Axes: z = (h - mean) A, in which the mean of M is the identity and the covariance of the sample is diagonal, so
       that the same squared error costs the same in each and none tells of another (transform coding).
    2. Bits: 0 to 8 for every eight axes of about the same variance, where they take most of the error away (reverse
       water-filling); levels at equal steps, near those of Max (1960) for a normal law, times a scale of the row.
    3. Rounding: one axis after the other, from the smallest variance to the largest, each at the level nearest to
       where M(h) of this very row wants it after the errors made so far (Babai, 1986, "On Lovász' lattice reduction
       and the nearest lattice point problem"), which cuts the loss to a fourth or less. Reading does not know of it.

    A row takes ceil(bits width / 8) + 2 bytes. Without a head (a state that is itself the target) M is the identity:
    principal axes, and plain rounding. With one, the state comes back only as near as the head can tell: keep float16
    for objectives on the state itself. Where the head alone reads the state, it takes the axes as they are (`axes`):
    the product that leads out of them is done once, with the head's weights, in place of once a token.

    Settings: `bits` from 0.25 to 8. Errors: `DistillationError` for others, and for a sample of less than two rows a
    channel.
    """

    def __init__(self, *, bits: float = 4.0) -> None:
        self.bits = bits
        if isinstance(bits, bool) or not isinstance(bits, int | float) or not FEWEST_BITS <= bits <= MOST_BITS:
            raise DistillationError(f"rotated: bits is {bits!r}; it must be from {FEWEST_BITS} to {MOST_BITS}.")
        self._rotation: Rotation | None = None
        self._sensitivity: Sensitivity | None = None

    def fit(self, sample: Tensor, head: Head | None = None) -> None:
        self._rotation = Rotation.fitted(sample, head, self._code_bytes(sample.shape[-1]))
        if head is not None:
            self.guide(head)

    def guide(self, head: Head) -> None:
        self._sensitivity = Sensitivity.of(head, self._fitted())

    def encode(self, rows: Tensor) -> Parts:
        rotation = self._fitted()
        axes, scales = rotation.turn(rows)
        if self._sensitivity is None:
            levels = rotation.levels(axes)
        else:
            levels = round_in_turn(axes, scales, rows, self._sensitivity, rotation)
        return {"codes": rotation.pack(levels), "scales": scales}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        rotation = self._fitted()
        with torch.autocast(parts["codes"].device.type, enabled=False):
            return torch.addmm(rotation.centre, self.decode_axes(parts), rotation.back)

    def axes(self) -> Axes:
        rotation = self._fitted()
        return Axes(rotation.back, rotation.centre)

    def decode_axes(self, parts: Mapping[str, Tensor]) -> Tensor:
        return self._fitted().read(parts["codes"], parts["scales"])

    def layout(self, width: int) -> Layout:
        return {"codes": (torch.uint8, (self._code_bytes(width),)), "scales": (torch.float16, (1,))}

    def fitted_width(self) -> int:
        return len(self._fitted().centre)

    def _code_bytes(self, width: int) -> int:
        return math.ceil(self.bits * width / 8)

    def state(self) -> Parts:
        return self._fitted().tables()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        rotation = Rotation(state)
        num_bytes = self._code_bytes(len(rotation.centre))
        if rotation.num_bytes != num_bytes:
            raise CacheMismatch(
                f"the tables of the codec 'rotated' deal out {rotation.num_bytes} bytes a row, and bits={self.bits} "
                f"are {num_bytes}; the cache is damaged."
            )
        self._rotation = rotation

    def place(self, device: torch.device) -> None:
        self._rotation = self._fitted().to(device)

    def _fitted(self) -> Rotation:
        if self._rotation is None:
            raise DistillationError("rotated: rows are written or read before fit(sample) or load_state(tables).")
        return self._rotation
