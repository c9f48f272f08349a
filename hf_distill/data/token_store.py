"""Rows of token ids on disk: a corpus is read and tokenised once, and every row can be had by its number."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import config as datasets_config
from datasets.utils import tqdm
from filelock import FileLock
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hf_distill.data.masking import size_of
from hf_distill.data.packing import Layout, Packer, chunks, token_ids
from hf_distill.data.streams import Source
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

VERSION = 1
FACTS, TOKENS, ENDS, COUNTS = "store.json", "tokens.bin", "ends.bin", "counts.bin"


@dataclass(frozen=True)
class Facts:
    """What a store holds. `dtype` is that of the token ids."""

    version: int
    source: str
    dtype: str
    documents: int
    rows: int
    tokens: int


class TokenStore:
    """The packed rows of one source, in a folder.

    Training reads rows in random order, resumes in the middle, and is told how long an epoch is; all of that is a
    matter of numbers once the rows are on disk, where two bytes a token take less room than the text did. Rows are
    read one by one with `pread` and not mapped into memory, so that the resident memory of a process does not grow
    with the corpus: it holds eight bytes a row.

    `counts` `[vocabulary]`: how often each token stands in the rows, special ones included.
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens a store. Errors: DataError where it is not whole."""
        self.folder = Path(folder)
        self.facts = _read_facts(self.folder)
        self.dtype = np.dtype(self.facts.dtype)
        try:
            self.ends = np.fromfile(self.folder / ENDS, dtype=np.int64)
            self.counts = np.fromfile(self.folder / COUNTS, dtype=np.int64)
            size = (self.folder / TOKENS).stat().st_size
        except OSError as error:
            raise DataError(
                f"{self.folder}: not a whole store of tokens: {error}; remove the folder, and it is made anew."
            ) from error
        told = self.facts.tokens
        if self.counts.sum() != told or not len(self.ends) or self.ends[-1] != told:
            raise DataError(
                f"{self.folder}: {ENDS} or {COUNTS} is damaged, they do not come to the {told} tokens of {FACTS}; "
                "remove the folder, and it is made anew."
            )
        if len(self.ends) != self.facts.rows or size != self.facts.tokens * self.dtype.itemsize:
            raise DataError(
                f"{self.folder}: holds {len(self.ends)} rows and {size} bytes of tokens, its {FACTS} says "
                f"{self.facts.rows} and {self.facts.tokens * self.dtype.itemsize}; remove the folder, and it is made "
                "anew."
            )
        self._file: int | None = None

    def __len__(self) -> int:
        return self.facts.rows

    def row(self, number: int) -> NDArray[np.int64]:
        """The token ids of a row, special tokens included."""
        if self._file is None:
            self._file = os.open(self.folder / TOKENS, os.O_RDONLY)
        start = int(self.ends[number - 1]) if number else 0
        size = self.dtype.itemsize
        data = os.pread(self._file, (int(self.ends[number]) - start) * size, start * size)
        return np.frombuffer(data, dtype=self.dtype).astype(np.int64)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every row."""
        return np.diff(self.ends, prepend=0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # a worker process opens its own

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


def stored(
    source: Source, tokenizer: PreTrainedTokenizerBase, layout: Layout, cache_dir: str | Path | None = None
) -> TokenStore:
    """The rows of a source, from a folder in `cache_dir` (by default beside the caches of `datasets`).

    The folder's name is a digest of source, tokenizer and layout, so that runs on the same text share it. One process
    makes it while others that ask for it wait; it is whole, or not there.

    Errors: DataError for whatever the source raises, and where the disk does not take the rows.
    """
    root = Path(datasets_config.HF_DATASETS_CACHE) / "hf_distill" if cache_dir is None else Path(cache_dir)
    folder = root / _key(source, tokenizer, layout)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder.name}.lock"):
            if not (folder / FACTS).is_file():
                _make(source, tokenizer, layout, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: the tokens of {source.name} cannot be stored: {error.strerror or error}."
        ) from error
    return TokenStore(folder)


def _make(source: Source, tokenizer: PreTrainedTokenizerBase, layout: Layout, folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.mkdir()
    counts = np.zeros(size_of(tokenizer), dtype=np.int64)
    dtype = np.dtype(np.uint16 if len(counts) <= 2**16 else np.uint32)
    documents = rows = tokens = 0
    with (part / TOKENS).open("wb") as ids_file, (part / ENDS).open("wb") as ends_file:
        for number, packed in _packed(source, tokenizer, layout):
            documents += number
            flat = np.concatenate(packed) if packed else np.empty(0, dtype=np.int64)
            counts += np.bincount(flat, minlength=len(counts))
            ends = tokens + np.cumsum([len(row) for row in packed], dtype=np.int64)
            flat.astype(dtype).tofile(ids_file)
            ends.tofile(ends_file)
            rows, tokens = rows + len(packed), tokens + len(flat)
    if not rows:
        raise DataError(f"{source.name}: its {documents} documents are no tokens to {type(tokenizer).__name__}.")
    counts.tofile(part / COUNTS)
    facts = Facts(VERSION, source.name, dtype.name, documents, rows, tokens)
    (part / FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")
    part.rename(folder)
    logger.info("%s: %d documents are %d rows of %d tokens in all.", source.name, documents, rows, tokens)


def _packed(
    source: Source, tokenizer: PreTrainedTokenizerBase, layout: Layout
) -> Iterator[tuple[int, list[NDArray[np.int64]]]]:
    """How many documents were read, and the rows that they finish, chunk by chunk."""
    packer = Packer(layout)
    with tqdm(desc=f"Tokenising {source.name}", unit=" documents") as bar:
        for chunk in chunks(source.documents()):
            rows = [row for ids in token_ids(tokenizer, chunk) for row in packer.add(ids)]
            yield len(chunk), [np.asarray(row, dtype=np.int64) for row in rows]
            bar.update(len(chunk))
    yield 0, [np.asarray(row, dtype=np.int64) for row in packer.rest()]


def _key(source: Source, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> str:
    parts = {
        "version": VERSION,
        "source": source.identity(),
        "layout": asdict(layout),
        "tokenizer": spelled(tokenizer),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def spelled(tokenizer: PreTrainedTokenizerBase) -> Any:
    """All that decides which ids a text gets: of a fast tokenizer its whole file, else class, vocabulary and
    settings."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__name__, tokenizer.get_vocab(), repr(sorted(tokenizer.init_kwargs.items(), key=repr))]
    whole = json.loads(backend.to_str())
    return {name: part for name, part in whole.items() if name not in ("truncation", "padding")}


def _read_facts(folder: Path) -> Facts:
    try:
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        facts = Facts(**found)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder}: no store of tokens: {error}; remove the folder, and it is made anew.") from error
    if facts.version != VERSION or facts.dtype not in ("uint16", "uint32"):
        raise DataError(
            f"{folder}: a store of version {facts.version}, {facts.dtype}; remove it, and it is made anew."
        )
    return facts
