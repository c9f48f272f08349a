"""One file of a cache: what the teacher showed for some rows.

A shard is a safetensors file (8 bytes with the length of the header, little-endian; the header in JSON; the tensors).
Of n rows with t tokens in all it holds

    keys        [n, 16]  uint8   the keys of the rows
    lengths     [n]      int64   tokens of each row
    checksums   [n]      int64   CRC-32 of the row's bytes in the tensors below, in the order of their names
    SIGNAL/PART [n, …] or [t, …] what the codec of the signal wrote, by row, or by token, rows one behind the other

so that every row can be read by itself, and is compared with its checksum whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from hf_distill.errors import CacheMismatch
from hf_distill.teachers.cache.keys import KEY_BYTES

KEYS, LENGTHS, CHECKSUMS = "keys", "lengths", "checksums"
_OWN = (KEYS, LENGTHS, CHECKSUMS)
_LARGEST_HEADER = 2**26

BITS: dict[str, tuple[torch.dtype, Any]] = {
    "F32": (torch.float32, np.int32),
    "F16": (torch.float16, np.int16),
    "BF16": (torch.bfloat16, np.int16),
    "U8": (torch.uint8, np.uint8),
    "I8": (torch.int8, np.int8),
    "U16": (torch.uint16, np.int16),
    "I16": (torch.int16, np.int16),
    "I32": (torch.int32, np.int32),
    "I64": (torch.int64, np.int64),
}
"""Types of tensors by their names in a header, and the whole numbers of the same size that stand for their bits. Bits
pass through numpy, which has no bfloat16, and through engines that cast what is a float."""


def carried(bits: NDArray[Any]) -> Tensor:
    """Bits as they travel with a batch: those of two bytes as pairs of bytes `[…, 2]`. NCCL, by which accelerate may
    deal batches out, knows whole numbers of one, four and eight bytes."""
    tensor = torch.from_numpy(bits)
    return tensor.unsqueeze(-1).view(torch.uint8) if bits.dtype.itemsize == 2 else tensor


def arrived(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """What was `carried`, in the type that its bits stand for."""
    return bits.view(dtype).squeeze(-1) if dtype.itemsize == 2 else bits.view(dtype)


def shard_bytes(
    keys: list[bytes], lengths: NDArray[np.int64], parts: Mapping[str, Tensor], by_token: set[str]
) -> bytes:
    """A shard with these rows; `by_token` are the names of the parts `[tokens, …]`, the others are `[rows, …]`."""
    bits = {name: _bits(parts[name]) for name in sorted(parts)}
    ends = np.cumsum(lengths)
    sums = [
        _checksum([each[_span(name in by_token, row, ends, lengths)] for name, each in bits.items()])
        for row in range(len(keys))
    ]
    own = {
        KEYS: torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES),
        LENGTHS: torch.from_numpy(lengths.astype(np.int64)),
        CHECKSUMS: torch.tensor(sums, dtype=torch.int64),
    }
    data: bytes = save({**own, **{name: part.contiguous() for name, part in parts.items()}})
    return data


def _span(by_token: bool, row: int, ends: NDArray[np.int64], lengths: NDArray[np.int64]) -> slice:
    return slice(int(ends[row] - lengths[row]), int(ends[row])) if by_token else slice(row, row + 1)


def _checksum(arrays: list[NDArray[Any]]) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(array.data, found)
    return found


def _bits(part: Tensor) -> NDArray[Any]:
    kind = next(bits for dtype, bits in BITS.values() if dtype == part.dtype)
    return part.contiguous().view(_TORCH[kind]).numpy()


_TORCH = {
    np.int32: torch.int32,
    np.int16: torch.int16,
    np.uint8: torch.uint8,
    np.int8: torch.int8,
    np.int64: torch.int64,
}


def unreadable(path: Path, error: OSError) -> CacheMismatch:
    """The error for a file that this process is not given, which says nothing of what is in it."""
    return CacheMismatch(
        f"{path} cannot be read: {error.strerror or error}. It may be whole, so keep it; see to what the error names "
        "(the limit of open files, permissions, the disk or the network), and run again."
    )


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    """The bytes of a file, mapped into memory without a descriptor, of which a process has few: `mmap` and
    `numpy.memmap` keep one for each file.

    Raises: `OSError` for a file that cannot be mapped.
    """
    try:
        tensor = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    memory: NDArray[np.uint8] = tensor.numpy()
    memory.flags.writeable = False
    return memory


class Shard:
    """A shard, mapped into memory; what is not read takes none, and no file stays open.

    Raises: `CacheMismatch` for a file that is missing, cut off, or no shard, and for one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()
        kinds = {name: self.arrays[name].dtype for name in _OWN if name in self.arrays}
        if kinds != {KEYS: np.uint8, LENGTHS: np.int64, CHECKSUMS: np.int64}:
            raise self._broken("it has no keys, lengths or checksums, or of another type")
        self.lengths: NDArray[np.int64] = self.arrays.pop(LENGTHS)
        self.checksums: NDArray[np.int64] = self.arrays.pop(CHECKSUMS)
        self.keys: NDArray[np.uint8] = self.arrays.pop(KEYS)
        rows = self.lengths.size
        if self.keys.shape != (rows, KEY_BYTES) or self.lengths.shape != (rows,) or self.checksums.shape != (rows,):
            raise self._broken("its keys, lengths and checksums are not of the same rows")
        if rows and not 0 <= self.lengths.min() <= self.lengths.max() < 2**31:
            raise self._broken("its lengths are none")
        self.tokens, self.ends = int(self.lengths.sum()), np.cumsum(self.lengths)
        self._names = sorted(self.arrays)

    @property
    def index(self) -> str:
        """The digest of the header, keys, lengths and checksums."""
        digest = hashlib.blake2b(self._head, digest_size=16)
        for each in (self.keys, self.lengths, self.checksums):
            digest.update(each.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, layout: Mapping[str, tuple[bool, torch.dtype, tuple[int, ...]]]) -> None:
        """Compares the parts with what they must be: whether they go by token, their dtypes, and their shapes without
        the rows.

        Raises: `CacheMismatch` for others.
        """
        expected = {
            name: (dtype, (self.tokens if by_token else len(self), *shape))
            for name, (by_token, dtype, shape) in layout.items()
        }
        found = {name: (self.dtypes[name], array.shape) for name, array in self.arrays.items()}
        for name in sorted({*expected} | {*found}):
            if found.get(name) != expected.get(name):
                raise self._broken(f"{name!r} is {found.get(name)}, and {expected.get(name)} is told of it")

    def row(self, row: int, by_token: Mapping[str, bool]) -> dict[str, NDArray[Any]]:
        """The bits of one row `[1, …]`, or `[tokens, …]`, by the name of the part.

        Raises: `CacheMismatch` if the row is not as it was written.
        """
        found = {name: self.arrays[name][_span(by_token[name], row, self.ends, self.lengths)] for name in self._names}
        if _checksum(list(found.values())) != self.checksums[row]:
            raise self._broken(f"row {row} is not as it was written (its checksum differs)")
        return found

    def _open(self) -> None:
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                    raise self._broken("it is cut off, or no shard")
                self._head = file.read(length)
            header = json.loads(self._head)
            if not isinstance(header, dict):
                raise self._broken("its header is no table")
            memory = _mapped(self.path, size)
        except CacheMismatch:
            raise
        except (FileNotFoundError, ValueError, RecursionError) as error:
            raise self._broken(str(error)) from error
        except OSError as error:
            raise unreadable(self.path, error) from error
        self.arrays: dict[str, NDArray[Any]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for name, told in header.items():
            if name != "__metadata__":
                self.arrays[name] = self._array(memory, 8 + length, name, told)

    def _array(self, memory: NDArray[np.uint8], start: int, name: str, told: Any) -> NDArray[Any]:
        try:
            shape, (begin, end) = told["shape"], told["data_offsets"]
            kind = np.dtype(BITS[told["dtype"]][1])
            whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(f"its header tells of {name!r} {told!r}") from error
        count = math.prod(shape) if whole else 0
        if not whole or begin > end or end - begin != count * kind.itemsize:
            raise self._broken(f"its header tells of {name!r} {told!r}")
        if start + end > len(memory):
            raise self._broken(f"it has {len(memory)} bytes, and {start + end} are told of; it is cut off")
        if name not in _OWN:
            self.dtypes[name] = BITS[told["dtype"]][0]
        try:
            return np.frombuffer(memory, kind, count, start + begin).reshape(shape)
        except (ValueError, OverflowError) as error:  # no rows of a size that no array has
            raise self._broken(f"its header tells of {name!r} {told!r}") from error

    def _broken(self, why: str) -> CacheMismatch:
        return CacheMismatch(
            f"{self.path}: not a whole shard of a teacher's cache: {why}. Remove the cache's folder; it is made anew."
        )
