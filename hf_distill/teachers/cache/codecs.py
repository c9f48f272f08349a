"""How one row of a teacher's signal is written down: in few bytes, and read back by row."""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from hf_distill.errors import CacheMismatch, DistillationError
from hf_distill.top_logits import TopLogits

Parts = dict[str, Tensor]
"""The tensors `[rows, ...]` that stand for the rows, by name; names are lower-case words."""

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""The dtype and the shape of the parts of one row, by name."""

Head = Callable[[Tensor], Tensor]
"""Hidden states `[rows, width]` to logits `[rows, vocabulary]`, without gradient."""


class Axes(NamedTuple):
    """Where the axes of a codec lie: a state is `offset` [width] and its axes [axes] times `back` [axes, width]."""

    back: Tensor
    offset: Tensor


class Codec(ABC):
    """One way of writing rows `[rows, width]` down.

    A codec takes keyword settings, keeps each under its own name, and is entered by `@codec("name")`. Rows are written
    and read one by one in any order: row i of what `encode` gives depends on row i alone (and on fixed tables of
    `fit`), has the same shape and dtype for every row, and takes `bytes_per_row(width)` bytes. `decode` runs on the
    device of the parts, under `no_grad`, in the training step: it neither waits for the device nor keeps state.
    """

    name: ClassVar[str] = ""

    def settings(self) -> dict[str, Any]:
        """The keyword settings, as plain values that JSON knows."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def fit(self, sample: Tensor, head: Head | None = None) -> None:  # noqa: B027 - most codecs have no tables
        """Make fixed tables out of a sample `[rows, width]` in float32; called once, before the first `encode`.

        `head`, where there is one, makes logits `[rows, vocabulary]` of such rows.
        """

    def guide(self, head: Head) -> None:  # noqa: B027 - most codecs look at the rows alone
        """Take the head that reads the rows; called before `encode`, also where the tables come from `load_state`.
        Reading asks for none.
        """

    @abstractmethod
    def encode(self, rows: Tensor) -> Parts:
        """The parts of rows `[rows, width]`, which come in float32 and on any device."""

    @abstractmethod
    def decode(self, parts: Mapping[str, Tensor]) -> Tensor | TopLogits:
        """The rows `[rows, width]` in float32, or as much of them as was kept."""

    def axes(self) -> Axes | None:
        """The codec's own axes, where rows are read in these at less cost than as they were; None for most codecs."""
        return None

    def decode_axes(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The rows in the codec's own axes `[rows, axes]` in float32.

        Raises: `DistillationError` for a codec that has none.
        """
        raise DistillationError(f"the codec {self.name!r} has no axes of its own.")

    @abstractmethod
    def layout(self, width: int) -> Layout:
        """What the parts of one row are; what is read from the disk is compared with it."""

    def bytes_per_row(self, width: int) -> int:
        """The bytes that the parts of one row take."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.layout(width).values())

    def check(self, width: int) -> None:  # noqa: B027 - most codecs take any
        """Refuse rows of a width that cannot be written down.

        Raises: `DistillationError` with the width and the remedy.
        """

    def state(self) -> Parts:
        """The tables of `fit`, stored once beside the rows; on the CPU."""
        return {}

    def fitted_width(self) -> int | None:
        """The width of the rows that the tables are for; None without tables."""
        return None

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the tables of `state()` in place of `fit`.

        Raises: `CacheMismatch` for others than these.
        """
        if state:
            raise CacheMismatch(f"the codec {self.name!r} has no tables, and the cache holds {', '.join(state)}.")

    def place(self, device: torch.device) -> None:  # noqa: B027 - most codecs have no tables
        """Move the tables to the device that parts will come on."""


CodecClass = TypeVar("CodecClass", bound=type[Codec])

_codecs: dict[str, type[Codec]] = {}


def codec(name: str) -> Callable[[CodecClass], CodecClass]:
    """Class decorator: enter a codec under the name that recipes and caches use."""

    def enter(made: CodecClass) -> CodecClass:
        if name in _codecs:
            raise DistillationError(f"two codecs are named {name!r}.")
        made.name = name
        _codecs[name] = made
        return made

    return enter


def names() -> list[str]:
    """The names of the codecs, sorted."""
    return sorted(_codecs)


def make(name: str, settings: Mapping[str, Any]) -> Codec:
    """The codec of a name with its settings.

    Raises: `DistillationError` for an unknown name or setting.
    """
    if name not in _codecs:
        raise DistillationError(f"there is no codec {name!r}; the codecs are {', '.join(names())}.")
    known = list(inspect.signature(_codecs[name]).parameters)
    for setting in settings:
        if setting not in known:
            listed = ", ".join(known) or "none"
            raise DistillationError(f"the codec {name!r} has no setting {setting!r}; its settings are {listed}.")
    return _codecs[name](**settings)


def named(codec: Codec | str | None) -> Codec | None:
    """A codec, or the one of a name with its settings left out; None stays None.

    Raises: `DistillationError` for an unknown name, and for anything else.
    """
    if isinstance(codec, str):
        return make(codec, {})
    if codec is not None and not isinstance(codec, Codec):
        raise DistillationError(
            f"codec is {codec!r}; give a name ({', '.join(names())}), or what teachers.cache.codecs.make gives."
        )
    return codec


class _Cast(Codec):
    """Every number of a row in another floating-point type."""

    dtype: ClassVar[torch.dtype]

    def encode(self, rows: Tensor) -> Parts:
        return {"values": rows.to(self.dtype)}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["values"].float()

    def layout(self, width: int) -> Layout:
        return {"values": (self.dtype, (width,))}


@codec("float32")
class Float32(_Cast):
    """As the teacher gave them: 4 bytes a number, nothing lost."""

    dtype = torch.float32


@codec("float16")
class Float16(_Cast):
    """2 bytes a number, 11 bits of it; up to 65,504. The choice for states behind a norm.

    Errors: `DistillationError` for a number beyond, when it is written.
    """

    dtype = torch.float16

    def encode(self, rows: Tensor) -> Parts:
        largest = rows.abs().amax() if rows.numel() else rows.new_zeros(())
        if largest > torch.finfo(self.dtype).max:
            raise DistillationError(
                f"float16 holds numbers up to 65504, and the teacher gave {float(largest):g}; use bfloat16 or float32."
            )
        return super().encode(rows)


@codec("bfloat16")
class BFloat16(_Cast):
    """2 bytes a number, 8 bits of it, and the range of float32. For states that no norm keeps small."""

    dtype = torch.bfloat16


SMALL_VOCABULARY = 2**16


def _id_dtype(num_classes: int) -> torch.dtype:
    return torch.uint16 if num_classes <= SMALL_VOCABULARY else torch.int32


def _is_temperature(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value <= sys.float_info.max


@codec("top_k")
class TopK(Codec):
    """The `k` largest logits of each row and, at each of `temperatures`, the log-sum-exp of the rest.

    A row takes 4 k bytes and 4 more for each temperature: ids in uint16 (above 65,536 classes int32, 6 k bytes),
    logits less the row's largest in float16. The probability of a kept class is exact at these temperatures, up to
    float16: p_i = exp(z_i / T - logaddexp(lse_k, tail_T)). At another temperature the tail is unknown, and reading it
    is an error; at 2 a language model's tail holds most of the mass, so prefer its last hidden state.

    Errors: `DistillationError` for settings out of range, and for rows of no more than `k` classes.
    """

    def __init__(self, *, k: int = 64, temperatures: Sequence[float] = (1.0,)) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise DistillationError(f"top_k: k is {k!r}; it must be a number of 1 or more.")
        listed = list(temperatures) if isinstance(temperatures, list | tuple) else []
        if not listed or not all(map(_is_temperature, listed)) or len({*listed}) != len(listed):
            raise DistillationError(
                f"top_k: temperatures are {temperatures!r}; give a list of at least one number above 0, each once."
            )
        self.k, self.temperatures = k, [float(each) for each in listed]
        self._num_classes = 0

    def fit(self, sample: Tensor, head: Head | None = None) -> None:
        self._num_classes = sample.shape[-1]

    def check(self, width: int) -> None:
        if width <= self.k:
            raise DistillationError(
                f"top_k: the logits have {width} classes, and the {self.k} largest are to be kept; keep them whole "
                "(codec float32), or make k smaller."
            )

    def encode(self, rows: Tensor) -> Parts:
        kept, ids = rows.topk(self.k, dim=-1)
        largest = kept[:, :1]
        rest = rows.scatter(-1, ids, float("-inf")) - largest
        tails = [(rest / temperature).logsumexp(-1) for temperature in self.temperatures]
        return {
            "ids": ids.to(_id_dtype(rows.shape[-1])),
            "logits": (kept - largest).clamp(min=torch.finfo(torch.float16).min).half(),
            "tails": torch.stack(tails, -1),
        }

    def decode(self, parts: Mapping[str, Tensor]) -> TopLogits:
        tails = dict(zip(self.temperatures, parts["tails"].unbind(-1), strict=True))
        ids = parts["ids"]
        if ids.dtype == torch.uint16:  # of which devices know little
            ids = ids.view(torch.int16).int() & 0xFFFF
        return TopLogits(ids.long(), parts["logits"].float(), tails, self._num_classes)

    def layout(self, width: int) -> Layout:
        return {
            "ids": (_id_dtype(width), (self.k,)),
            "logits": (torch.float16, (self.k,)),
            "tails": (torch.float32, (len(self.temperatures),)),
        }

    def state(self) -> Parts:
        return {"num_classes": torch.tensor(self._num_classes)}

    def fitted_width(self) -> int:
        return self._num_classes

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if set(state) != {"num_classes"}:
            raise CacheMismatch(f"the codec 'top_k' keeps num_classes, and the cache holds {', '.join(state) or '-'}.")
        number = state["num_classes"]
        if number.dtype != torch.int64 or number.dim() or int(number) <= self.k:
            raise CacheMismatch(
                f"the codec 'top_k' keeps the {self.k} largest of num_classes, a whole number above that, and the "
                f"cache holds {number.dtype} {number.tolist()}."
            )
        self._num_classes = int(number)
