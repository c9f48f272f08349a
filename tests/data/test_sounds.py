"""Sounds of files and of lists: the same samples, whatever they are kept in."""

from __future__ import annotations

import math
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


def test_other_formats_need_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_audio: Any, _source: Any) -> None:
        raise ImportError("please install 'torchcodec'")

    monkeypatch.setattr(sounds.Audio, "decode_example", missing)
    (tmp_path / "a.flac").write_bytes(b"fLaC" + bytes(20))
    with pytest.raises(DataError, match=r"row 7: .*a\.flac is no WAV file.*pip install torchcodec"):
        samples_of(str(tmp_path / "a.flac"), "row 7", 400, 1)
