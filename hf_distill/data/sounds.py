"""Sounds as models hear them: samples from -1 to 1 in one channel, at the rate that is asked for.

WAV files are read here; what else there is (FLAC, MP3, Ogg) by torchcodec, where that is installed.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from hf_distill.data.files import describe, listing
from hf_distill.errors import DataError

Samples = NDArray[np.float32]

RIFF = b"RIFF"
"""How a WAV file begins."""
LARGEST = 2**30
"""Bytes of a sound file: nine hours of 16,000 samples of 16 bits a second, and no model hears as much at once."""
FASTEST = 768_000
"""Samples a second; what is said to have more is damaged, and a filter for its rate could fill the memory."""
BROKEN = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    ArithmeticError,
    LookupError,
    UnboundLocalError,
    struct.error,
    wavfile.WavFileWarning,
)
"""What reading a damaged file raises; scipy's reader has an unbound name where there are no samples at all, and
divides by zero where a header says so."""


def located(cell: Any, place: str, folder: Path) -> Any:
    """A cell of a column of sounds, the path in it from `folder` on; it may be the path of a file, a list of samples,
    or a mapping of `bytes` and `path`, as in parquet files of the Hub. `place` is where it stands, for messages.

    A path may lead anywhere, as those of any file that a recipe names: up, absolute, from `~` on, and along links.

    Errors: DataError for anything else, for a list without samples, and for a file that is not there.
    """
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return {"bytes": cell["bytes"]}
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    if isinstance(cell, str) and cell.strip():
        return _file(cell, place, folder)
    if isinstance(cell, list) and cell and all(type(value) in (int, float) for value in cell):
        try:
            return [float(value) for value in cell]
        except OverflowError as error:
            raise DataError(f"{place}: a sample is larger than any float; leave the row out.") from error
    raise DataError(f"{place}: holds {describe(cell)}, expected the path of a sound file, or a list of samples.")


def _file(cell: str, place: str, folder: Path) -> str:
    try:
        path = folder / Path(cell).expanduser()
        size = path.stat().st_size if path.is_file() else None
        held = listing(path.parent) if size is None else ""
    except (OSError, RuntimeError, ValueError) as error:  # a text that no path can be, a folder that is closed
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise DataError(f"{place}: {describe(cell)} is no path of a sound file: {reason}.") from error
    if size is None:
        raise DataError(f"{place}: there is no file {path}; {held}.")
    if size > LARGEST:
        raise DataError(f"{place}: {path} has {size:,} bytes, and a sound may have {LARGEST:,}; cut it.")
    return str(path)


def samples_of(cell: Any, place: str, rate: int, rate_of_lists: int) -> Samples:
    """The samples `[n]` of what `located` gave, at `rate` samples a second; a list has `rate_of_lists`. Several
    channels are averaged, and other rates resampled by a polyphase filter.

    Errors: DataError naming `place` for a file that cannot be read, for a sound that is empty or not finite, and for
    a rate that no sound has.
    """
    if isinstance(cell, list):
        own_rate, found = rate_of_lists, np.asarray(cell, dtype=np.float64)
    else:
        own_rate, found = _read(cell if isinstance(cell, str) else cell["bytes"], place)
    if found.ndim > 1:
        found = found.mean(axis=1)
    if not 1 <= own_rate <= FASTEST:
        raise DataError(f"{place}: a sound of {own_rate} samples a second; there may be 1 to {FASTEST:,}.")
    if not len(found) or not (np.abs(found) < np.finfo(np.float32).max).all():
        raise DataError(
            f"{place}: a sound of {len(found)} samples at {own_rate} a second, all of which must be numbers that a "
            "float32 holds; leave the row out."
        )
    if own_rate != rate:
        common = math.gcd(own_rate, rate)
        found = resample_poly(found, rate // common, own_rate // common)
    return np.asarray(found, dtype=np.float32)


def _read(source: str | bytes, place: str) -> tuple[int, NDArray[Any]]:
    """The rate and the samples `[n]` or `[n, channels]` of a file, or of what is in one."""
    try:
        data = Path(source).read_bytes() if isinstance(source, str) else source
        name = source if isinstance(source, str) else "the sound"
        return _wav(data) if data[:4] == RIFF else _decoded(data, name)
    except ImportError as error:
        raise DataError(
            f"{place}: {name} is no WAV file, and others are read by torchcodec, which is not there ({error}). "
            "Install it (pip install torchcodec), or convert the sounds to WAV."
        ) from error
    except BROKEN as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{place}: the sound cannot be read: {reason}.") from error


def _wav(data: bytes) -> tuple[int, NDArray[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of parts of the file that are no samples
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, found = wavfile.read(io.BytesIO(data))
    if found.dtype == np.uint8:
        return rate, (found - 128.0) / 128.0
    if np.issubdtype(found.dtype, np.integer):
        return rate, found / -float(np.iinfo(found.dtype).min)
    return rate, found


def _decoded(data: bytes, name: str) -> tuple[int, NDArray[Any]]:
    decoder: Any = Audio().decode_example({"bytes": data, "path": name})
    found = decoder.get_all_samples()
    return int(found.sample_rate), found.data.numpy().T
