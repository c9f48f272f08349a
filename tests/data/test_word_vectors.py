"""Word vectors from a file, and the nearest words."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hf_distill.data.word_vectors import WordVectors
from hf_distill.errors import DataError

TEXT = "king 1 0\nqueen 2 0.5\nman 0 1\nnorth -1 0\nThe 0 -3\n"


def written(folder: Path, text: str | bytes, name: str = "vectors.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_nearest_words_by_cosine(tmp_path: Path) -> None:
    vectors = WordVectors.read(written(tmp_path, TEXT))
    assert vectors.nearest("king", 3) == ["queen", "man", "The"]
    assert vectors.nearest("king", 99) == ["queen", "man", "The", "north"]
    assert vectors.nearest("emperor", 3) == []
    np.testing.assert_allclose(np.linalg.norm(vectors.vectors, axis=1), 1.0, rtol=1e-6)


def test_capitals_are_kept(tmp_path: Path) -> None:
    vectors = WordVectors.read(written(tmp_path, TEXT))
    assert vectors.nearest("King", 2) == ["Queen", "Man"]
    assert vectors.nearest("KING", 1) == ["queen"]
    assert vectors.nearest("The", 1) == ["King"]
    assert vectors.nearest("the", 1) == []


def test_only_the_first_words_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT + "broken\n")
    assert WordVectors.read(path, limit=3).words == ["king", "queen", "man"]


def test_a_repeated_word_has_its_first_vector_and_zeros_are_far_from_all(tmp_path: Path) -> None:
    vectors = WordVectors.read(written(tmp_path, "a 1 0\nb 1 0.1\na 0 1\nc 0 0\n"))
    assert vectors.nearest("a", 1) == ["b"]
    assert np.isfinite(vectors.vectors).all()


def test_gzip_and_windows_lines(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(TEXT.replace("\n", "\r\n").encode()), "vectors.txt.gz")
    assert WordVectors.read(path).words == ["king", "queen", "man", "north", "The"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no word vectors"),
        ("5 2\nking 1 0\n", "line 1: '5 2' is no word with its vector.*remove a header line"),
        ("king 1 0\n\nman 0 1\n", "line 2: '' is no word"),
        ("king 1 0\nman 1 2 3\n", "line 2: 3 numbers behind 'man'; the first line has 2"),
        ("king 1 0\nman of 1\n", "line 2: the vector of 'man' holds something else than numbers"),
        ("king 1 0\nman 1 one\n", "line 2: the vector of 'man' holds something else than numbers"),
        ("king 1 nan\n", "line 1: the vector of 'king' holds a number that is not finite"),
        ("king 1 1e39\n", "line 1: .*not finite in float32"),
        (b"king 1 0\n\xff\xfe 1 0\n", "not readable as UTF-8"),
    ],
)
def test_damaged_files_name_the_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        WordVectors.read(written(tmp_path, text))


def test_words_with_spaces_are_read(tmp_path: Path) -> None:
    """GloVe's largest file has some, such as three dots."""
    vectors = WordVectors.read(written(tmp_path, "king 1 0\n. . . 0 2\nat name@domain.com -1 0\n"))
    assert vectors.words == ["king", ". . .", "at name@domain.com"]
    np.testing.assert_array_equal(vectors.vectors, [[1, 0], [0, 1], [-1, 0]])


def test_missing_and_cut_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"glove.txt: no such file; .* holds nothing"):
        WordVectors.read(tmp_path / "glove.txt")
    cut = gzip.compress(TEXT.encode() * 100)[:-20]
    with pytest.raises(DataError, match="not readable"):
        WordVectors.read(written(tmp_path, cut, "vectors.txt.gz"))
    with pytest.raises(DataError, match="not readable"):
        WordVectors.read(written(tmp_path, TEXT, "plain.txt.gz"))
    damaged = bytearray(gzip.compress(TEXT.encode() * 100))
    damaged[12:20] = b"\xff" * 8
    with pytest.raises(DataError, match="not readable"):
        WordVectors.read(written(tmp_path, bytes(damaged), "damaged.txt.gz"))
