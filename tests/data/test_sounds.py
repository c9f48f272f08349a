"""Sounds of files and of lists: the same samples, whatever they are kept in."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from hf_distill.data import sounds
from hf_distill.data.sounds import located, samples_of
from hf_distill.errors import DataError

WAVE = np.sin(2 * math.pi * 5 * np.arange(400) / 400)
"""Five turns in a second at 400 samples."""


@pytest.mark.parametrize(
    ("kept", "coarseness"),
    [
        ((WAVE * 32767).astype(np.int16), 1e-4),
        ((WAVE * (2**31 - 1)).astype(np.int32), 1e-7),
        ((WAVE * 127 + 128).astype(np.uint8), 2e-2),
        (WAVE.astype(np.float32), 1e-7),
    ],
)
def test_whatever_a_file_holds_samples_are_from_minus_one_to_one(tmp_path: Path, kept: Any, coarseness: float) -> None:
    wavfile.write(tmp_path / "a.wav", 400, kept)
    cell = located("a.wav", "row", tmp_path)
    found = samples_of(cell, "row", 400, 1)
    assert found.dtype == np.float32
    assert np.abs(found - WAVE).max() < coarseness
    held = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}
    assert np.array_equal(samples_of(located(held, "row", tmp_path), "row", 400, 1), found)


def test_channels_are_averaged_and_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "a.wav", 400, np.stack([WAVE, np.zeros(400)], 1).astype(np.float32))
    assert samples_of(str(tmp_path / "a.wav"), "row", 400, 1) == pytest.approx(WAVE / 2, abs=1e-6)
    assert samples_of(located([0, 0.5, -1], "row", tmp_path), "row", 8, 8).tolist() == [0.0, 0.5, -1.0]


@pytest.mark.parametrize("rate", [200, 300, 800])
def test_other_rates_are_resampled(rate: int) -> None:
    found = samples_of(WAVE.tolist(), "row", rate, 400)
    assert len(found) == rate
    wanted = np.sin(2 * math.pi * 5 * np.arange(rate) / rate)
    inside = slice(rate // 10, -rate // 10)  # the filter knows nothing of what is beyond the ends
    assert np.abs(found - wanted)[inside].max() < 0.01


@pytest.mark.parametrize("cell", [None, 3, "", [], ["a"], [True], {"path": None, "bytes": None}])
def test_what_is_no_sound_is_refused(tmp_path: Path, cell: Any) -> None:
    with pytest.raises(DataError, match=r"row 7: holds .* expected the path of a sound file, or a list of samples"):
        located(cell, "row 7", tmp_path)


def test_files_that_are_not_there_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 7: there is no file .*none\.wav"):
        located("none.wav", "row 7", tmp_path)
    wavfile.write(tmp_path / "a.wav", 400, (WAVE * 32767).astype(np.int16))
    whole = (tmp_path / "a.wav").read_bytes()
    for damaged in (whole[:-100], whole[:30], whole[:36], b"RIFF", whole[:20] + b"\xff\xff" + whole[22:]):
        with pytest.raises(DataError, match="row 7: the sound cannot be read"):
            samples_of({"bytes": damaged}, "row 7", 400, 1)
    with pytest.raises(DataError, match=r"row 7: a sound of 2 samples .* must be numbers"):
        samples_of([0.0, math.nan], "row 7", 400, 400)


def test_texts_that_are_no_paths_and_files_that_are_too_large_are_refused(tmp_path: Path) -> None:
    for text, reason in (("x" * 300, "File name too long"), ("~nobody-of-that-name/a.wav", "home directory")):
        with pytest.raises(DataError, match=rf"row 7: .* is no path of a sound file: .*{reason}"):
            located(text, "row 7", tmp_path)
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(sounds.LARGEST + 1)  # takes no room
    with pytest.raises(DataError, match=r"row 7: .*long\.wav has 1,073,741,825 bytes, and a sound may have"):
        located("long.wav", "row 7", tmp_path)


@pytest.mark.parametrize("number", [10**400, 1e39, math.inf])
def test_samples_that_no_float32_holds_are_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(DataError, match=r"row 7: .*(larger than any float|numbers that a float32 holds)"):
        samples_of(located([0.5, number], "row 7", tmp_path), "row 7", 400, 400)


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    """A filter from four thousand million samples a second to 16,000 would fill the memory."""
    wavfile.write(tmp_path / "a.wav", 400, (WAVE * 32767).astype(np.int16))
    whole = (tmp_path / "a.wav").read_bytes()
    rate = 2**30 - 1
    fast = whole[:24] + struct.pack("<II", rate, 2 * rate) + whole[32:]
    with pytest.raises(DataError, match=r"row 7: a sound of 1073741823 samples a second; there may be 1 to 768,000"):
        samples_of({"bytes": fast}, "row 7", 400, 1)
    channels = whole[:22] + struct.pack("<H", 0x4C01) + whole[24:]
    with pytest.raises(DataError, match="row 7: the sound cannot be read"):
        samples_of({"bytes": channels}, "row 7", 400, 1)


def test_samples_of_three_bytes(tmp_path: Path) -> None:
    data = b"".join(struct.pack("<i", value)[:3] for value in (0, 2**22, -(2**23), 2**23 - 1))
    layout = struct.pack("<IHHIIHH", 16, 1, 1, 400, 1200, 3, 24)
    file = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + layout + b"data"
    found = samples_of({"bytes": file + struct.pack("<I", len(data)) + data}, "row", 400, 1)
    assert found.tolist() == pytest.approx([0.0, 0.5, -1.0, 1.0], abs=2e-7)


def test_other_formats_need_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_audio: Any, _source: Any) -> None:
        raise ImportError("please install 'torchcodec'")

    monkeypatch.setattr(sounds.Audio, "decode_example", missing)
    (tmp_path / "a.flac").write_bytes(b"fLaC" + bytes(20))
    with pytest.raises(DataError, match=r"row 7: .*a\.flac is no WAV file.*pip install torchcodec"):
        samples_of(str(tmp_path / "a.flac"), "row 7", 400, 1)
