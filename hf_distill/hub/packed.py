"""`quantized.safetensors`: a student whose weights lie on grids, in as few bytes as that takes.

Of each such weight the codes, of `bits` bits one behind the other, the scale and offset of every bucket, and the
points of the grid; all other tensors as they are. The header says how the codes are read. `model.safetensors`, with
the same values as floats, is what transformers loads; no auto class reads codes of fewer than 8 bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors
import torch
import transformers
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from hf_distill.errors import BrokenCheckpoint, DistillationError
from hf_distill.students.grids import Coded
from hf_distill.students.quantized import grid_of, gridded, has_grids

FILE_NAME = "quantized.safetensors"
HEADER = "hf_distill_grids"
"""The entry of the file's metadata that describes the codes."""

PARTS = ("codes", "alpha", "beta", "points")


class _Coding(BaseModel):
    """How the codes of one weight are read; `places` are the names under which the model holds it, and `dtype` what
    its values are rounded to (None in files of before: not rounded)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    places: Annotated[list[str], Field(min_length=1)]
    shape: list[Annotated[int, Field(ge=1, lt=2**31)]]
    bits: Annotated[int, Field(ge=1, le=8)]
    bucket_size: Annotated[int, Field(ge=2, lt=2**31)]
    dtype: Annotated[str, Field(pattern="^(float64|float32|float16|bfloat16)$")] | None = None


class _Header(BaseModel):
    """Weights in codes by their first names, and further names of other tensors that are held in several places."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    grids: dict[str, _Coding]
    also: dict[str, str]


def write_packed(student: PreTrainedModel, folder: str | os.PathLike[str]) -> Path:
    """Writes `quantized.safetensors` of a student with grids into a folder, whole or not at all.

    Raises: `DistillationError` for a student without grids.
    """
    grids: dict[str, _Coding] = {}
    tensors: dict[str, Tensor] = {}
    state = student.state_dict()
    for original, places in _places(student).items():
        name, module = f"{places[0][0]}.weight", places[0][1]
        coded: Coded = grid_of(module).encoded(original)
        bits = max(1, (len(coded.points) - 1).bit_length())
        tensors |= {f"{name}.{part}": tensor for part, tensor in coded._asdict().items()}
        tensors[f"{name}.codes"] = torch.from_numpy(packed(coded.codes.cpu().numpy(), bits))
        names = [f"{path}.weight" for path, _ in places]
        size = grid_of(module).bucket_size
        grids[name] = _Coding(
            places=names,
            shape=list(original.shape),
            bits=bits,
            bucket_size=size,
            dtype=str(original.dtype).removeprefix("torch."),
        )
        for held in names:
            del state[held]
    if not grids:
        raise DistillationError(
            f"write_packed: no weight of {type(student).__name__} lies on a grid; quantize the student first."
        )
    also = _shared(state)
    tensors |= {name: tensor for name, tensor in state.items() if name not in also}
    header = _Header(grids=grids, also=also).model_dump_json()
    target, part = Path(folder) / FILE_NAME, Path(folder) / f".{FILE_NAME}.{os.getpid()}.part"
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part, {HEADER: header})
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def renew_packed(student: PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    """Has a `quantized.safetensors` that lies in a folder be that of the student just saved there: it is written again
    for one with grids, and removed for one without.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return
    if has_grids(student):
        write_packed(student, folder)
    else:
        path.unlink()


def read_packed(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state of a plain model from `quantized.safetensors`, the values those of the student that was written.

    Raises: `BrokenCheckpoint` for a file that is missing, damaged, or none of this kind.
    """
    path = Path(folder) / FILE_NAME
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = TypeAdapter(_Header).validate_json((file.metadata() or {}).get(HEADER, ""))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BrokenCheckpoint(f"{path} cannot be read: {reason}. Write it again with write_packed.") from error
    state: dict[str, Tensor] = {}
    for name, coding in header.grids.items():
        parts = [tensors.pop(f"{name}.{part}", None) for part in PARTS]
        state |= dict.fromkeys(coding.places, _values(path, name, coding, parts))
    state |= tensors
    for name, first in header.also.items():
        if first not in tensors:
            raise BrokenCheckpoint(f"{path}: {name} is said to be {first}, and there is no such tensor.")
        state[name] = tensors[first]
    return state


def load_packed(folder: str | os.PathLike[str], auto_class: str) -> PreTrainedModel:
    """The model of a folder with `config.json` and `quantized.safetensors`, plain and in floats.

    Raises: `BrokenCheckpoint` as `read_packed`, and for tensors that are not those of the configuration.
    """
    state = read_packed(folder)
    try:
        model: PreTrainedModel = getattr(transformers, auto_class).from_config(AutoConfig.from_pretrained(folder))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BrokenCheckpoint(f"{folder} has no config.json of an {auto_class}: {reason}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[1].strip()
        raise BrokenCheckpoint(f"{Path(folder) / FILE_NAME} does not fit config.json: {reason}") from error
    return model.eval()


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes below 2^bits, one a byte, to `bits` bits each, the lowest bit first."""
    return np.packbits(np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits], bitorder="little")


def unpacked(stream: NDArray[np.uint8], bits: int, number: int) -> NDArray[np.uint8]:
    """The codes that `packed` packed."""
    cells = np.unpackbits(stream, count=number * bits, bitorder="little").reshape(number, bits)
    return np.packbits(cells, axis=1, bitorder="little")[:, 0]


def _places(student: PreTrainedModel) -> dict[Tensor, list[tuple[str, Any]]]:
    """The modules that show each weight on a grid, by the floats beneath."""
    found: dict[Tensor, list[tuple[str, Any]]] = {}
    for path, module in gridded(student):
        found.setdefault(module.parametrizations.weight.original, []).append((path, module))
    return found


def _shared(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of tensors that are there under an earlier name."""
    first: dict[tuple[int, torch.Size], str] = {}
    return {
        name: earlier
        for name, tensor in state.items()
        if (earlier := first.setdefault((tensor.data_ptr(), tensor.shape), name)) != name
    }


def _values(path: Path, name: str, coding: _Coding, parts: list[Tensor | None]) -> Tensor:
    """The values of one weight, after a look at whether its parts fit each other."""
    number = prod(coding.shape)
    buckets = 1 if number <= coding.bucket_size else ceil(number / coding.bucket_size)
    wanted = (ceil(number * coding.bits / 8), buckets, buckets)
    found = tuple(-1 if part is None or part.dim() != 1 else len(part) for part in parts)
    kinds = [part.dtype for part in parts if part is not None]
    floats = len(set(kinds[1:])) == 1 and kinds[-1].is_floating_point
    if found[:3] != wanted or not 2 <= found[3] <= 256 or kinds[0] != torch.uint8 or not floats:
        raise BrokenCheckpoint(
            f"{path}: {name} of shape {coding.shape} should have {', '.join(PARTS)} of sizes {wanted} and 2 to 256, "
            f"and has {found} of types {', '.join(map(str, kinds))}. Write it again with write_packed."
        )
    stream, alpha, beta, points = (part for part in parts if part is not None)
    codes = unpacked(stream.numpy(), coding.bits, number)
    if int(codes.max()) >= len(points):
        raise BrokenCheckpoint(f"{path}: {name} has the code {codes.max()}, and {len(points)} points.")
    values = Coded(torch.from_numpy(codes), alpha, beta, points).values(coding.shape, coding.bucket_size)
    return values if coding.dtype is None else values.to(getattr(torch, coding.dtype))
