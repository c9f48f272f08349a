"""The signals of a cache: from a teacher's tensors to what is written, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_distill.activations import Activations, Signal
from hf_distill.errors import CacheMismatch, DataError, DistillationError
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.codecs import Codec
from hf_distill.teachers.cache.folder import TABLES, CacheFolder, Facts, SignalFacts
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.plan import SPANS, signal_named
from hf_distill.top_logits import TopLogits


def tensor_of(shown: Activations, signal: Signal) -> Tensor:
    """The tensor of a signal, its features last: `[batch, length, width]` or `[batch, width]`."""
    value = getattr(shown.stack(signal.stack), signal.field)
    tensor: Tensor = value if signal.layer is None else value[signal.layer]
    return tensor.unsqueeze(-1) if signal.field in SPANS else tensor


def rows_of(tensor: Tensor, pieces: Pieces) -> Tensor:
    """Its rows of some pieces in float32: `[pieces, width]`, or of every token of theirs `[tokens, width]`.

    Raises: `DistillationError` for numbers that are none; `DataError` where rows are told of as a whole, and hold
    several pieces.
    """
    if tensor.dim() == 3:
        rows = tensor.flatten(0, 1)[torch.from_numpy(pieces.places).to(tensor.device)].float()
    elif pieces.are_rows:
        rows = tensor[torch.from_numpy(pieces.rows).to(tensor.device)].float()
    else:
        raise DataError(
            "rows hold several documents each, and the teacher shows one vector a row; put one document in a row, or "
            "leave out the objective that reads it."
        )
    if bool((rows.isnan() | rows.isposinf()).any()):
        raise DistillationError(
            "the teacher gives NaN or infinite numbers, which are not written down. Run it in float32 or bfloat16."
        )
    return rows


@dataclass(frozen=True)
class Written:
    """One signal of a cache with its codec, tables included."""

    signal: Signal
    by_token: bool
    width: int
    codec: Codec

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """The parts of rows by their names in a shard, on the CPU."""
        return {f"{self.signal}/{name}": part.cpu() for name, part in self.codec.encode(rows).items()}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor | TopLogits:
        """The signal of a batch, from parts `[batch, …]`, or `[batch, length, …]` by token, by their names in a
        shard."""
        own = self._own(parts)
        if not self.by_token:
            return self.codec.decode(own)
        shape = next(iter(own.values())).shape[:2]
        rows = self.codec.decode({name: part.flatten(0, 1) for name, part in own.items()})
        if isinstance(rows, TopLogits):
            return rows.reshape(*shape)
        return rows.reshape(*shape) if self.signal.field in SPANS else rows.reshape(*shape, self.width)

    def decode_axes(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The signal of a batch in the codec's own axes, `[batch, axes]`, or `[batch, length, axes]` by token."""
        own = self._own(parts)
        if not self.by_token:
            return self.codec.decode_axes(own)
        shape = next(iter(own.values())).shape[:2]
        rows = self.codec.decode_axes({name: part.flatten(0, 1) for name, part in own.items()})
        return rows.view(*shape, rows.shape[-1])

    def _own(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.rpartition("/")[2]: part for name, part in parts.items() if name.startswith(f"{self.signal}/")}


def written_signals(folder: CacheFolder, facts: Facts) -> list[Written]:
    """The signals of a cache.

    Raises: `CacheMismatch` for a codec that this version has not, or damaged tables.
    """
    tables = folder.tensors(TABLES, facts)
    found = []
    for told in facts.signals:
        own = {name.rpartition("/")[2]: each for name, each in tables.items() if name.startswith(f"{told.name}/")}
        signal, codec = _told(folder, told)
        try:
            codec.load_state(own)
        except CacheMismatch as error:
            raise folder.damaged(TABLES, f"{told.name}: {error}") from error
        if codec.fitted_width() not in (None, told.width):
            raise folder.damaged(TABLES, f"{told.name} is {told.width} wide, its tables {codec.fitted_width()}")
        found.append(Written(signal, told.by_token, told.width, codec))
    return found


def layout_of(folder: CacheFolder, facts: Facts) -> dict[str, tuple[bool, torch.dtype, tuple[int, ...]]]:
    """Of each part in a shard by its name: whether it goes by token, its dtype, and its shape in one row.

    Raises: `CacheMismatch` for a signal or a codec that this version has not.
    """
    found = {}
    for told in facts.signals:
        signal, codec = _told(folder, told)
        for name, (dtype, shape) in codec.layout(told.width).items():
            found[f"{signal}/{name}"] = (told.by_token, dtype, shape)
    return found


def _told(folder: CacheFolder, told: SignalFacts) -> tuple[Signal, Codec]:
    try:
        return signal_named(told.name), codecs.make(told.codec, told.settings)
    except DistillationError as error:
        raise CacheMismatch(f"{folder.path}: {error} Read it with the version that wrote it.") from error
