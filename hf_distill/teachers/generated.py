"""A teacher that shows texts: what it wrote for each training row, kept in a folder.

    generated.json   the facts: format, fingerprint, number of rows, and the parts that there are
    part-*.jsonl     a line for each row, in their order: {"hypotheses": [{"text", "ids", "score", "ended"}, ...]}

The fingerprint tells of everything that decides what is written: the teacher's weights and settings, its tokenizer,
the sources, and how it was asked. A part is written under another name and renamed, and counts once `generated.json`,
which is replaced as a whole, names it; so a writer that is killed loses the part that it was at, and goes on with it.
Several processes write together, each the next part that no other is at; what is written does not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import CacheMismatch, DataError
from hf_distill.teachers.cache.fingerprint import teacher_digest, tokenizer_digest
from hf_distill.teachers.cache.folder import check_same
from hf_distill.teachers.generation import Hypothesis, Search, check_writes, write
from hf_distill.writing import write_whole

logger = logging.getLogger(__name__)

FORMAT = 1
FACTS = "generated.json"
LOCK = ".lock"
"""Held while the facts are read and replaced; each part has a lock of its own, held while it is written."""
PART = 512
"""Rows of a part."""
REASONS = ("empty", "too long", "duplicate")
UNANSWERED = "without room for an answer"
"""Of sources for which nothing is written."""

BEFORE: Mapping[str, Any] = MappingProxyType({"rendered": False, "ends": [], "drawing": "none"})
"""How the texts of folders were written that do not tell of it, as they are older."""

WriteRows = Callable[[int, int], Iterator[list[Hypothesis]]]
"""Gives the hypotheses of each row from a number on, up to another."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PartFacts(_Strict):
    """One part: its file, its rows, and the SHA-256 of the file."""

    file: str = Field(pattern=r"^part-[0-9]{5,}\.jsonl$")
    rows: int = Field(ge=1)
    sha256: str


class Facts(_Strict):
    """What a folder holds. `fingerprint` has an entry for each thing that must be the same when it is gone on with."""

    format: int
    fingerprint: dict[str, Any]
    rows: int = Field(ge=1)
    parts: list[PartFacts] = []


class _Written(_Strict):
    text: str
    ids: tuple[int, ...]
    score: float
    ended: bool


class _Line(_Strict):
    hypotheses: list[_Written]


class Generated:
    """The texts that a teacher wrote, read from a folder; `of` has them written where they are not there yet.

    A text is kept as the teacher's tokenizer decodes it, so that a student with another one can learn from it.

    Raises: `CacheMismatch` where there is no such folder, or it is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder).expanduser()
        self.facts = _facts(self.path)

    @classmethod
    def of(
        cls,
        folder: str | os.PathLike[str],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sources: Sequence[str],
        search: Search | None = None,
        *,
        batch_size: int = 16,
    ) -> Generated:
        """What `model` writes for `sources`, out of `folder`; what is not there yet is written, by several processes
        together where there are some.

        Raises: `CacheMismatch` for a folder with the texts of another teacher, of other sources or of another search,
        naming what differs; `IncompatiblePair` for a model that does not write; `DataError` without sources.
        """
        search = search or Search()
        check_writes(model, search)
        if not sources:
            raise DataError(f"{folder}: there are no sources that a teacher could write for.")
        wanted = fingerprint(model, tokenizer, sources, search)
        return cls.kept(
            folder,
            wanted,
            len(sources),
            lambda start, end: write(model, tokenizer, sources[start:end], search, batch_size, start),
        )

    @classmethod
    def kept(
        cls, folder: str | os.PathLike[str], wanted: Mapping[str, Any], rows: int, write_rows: WriteRows
    ) -> Generated:
        """What `write_rows` writes for so many rows, out of `folder`; `wanted` is all that decides what it writes,
        `sources` among it.

        Raises: `CacheMismatch`, as `of`.
        """
        path = Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            _begin(path, Facts(format=FORMAT, fingerprint=dict(wanted), rows=rows))
            for waits in (False, True):  # then for what others are at, or have left when they were killed
                for number in _missing(path):
                    _write_part(path, number, rows, write_rows, waits)
            for lock in path.glob(".part-*.lock"):
                lock.unlink(missing_ok=True)
        except OSError as error:
            raise CacheMismatch(
                f"{path} cannot be written: {error.strerror or error}. The parts that are there stay; make room and "
                "run again to go on."
            ) from error
        return cls(path)

    def hypotheses(self, sources: Sequence[str]) -> list[list[Hypothesis]]:
        """For each source its hypotheses, the best first as they were ranked, without those that are empty, that were
        cut off as too long, and that say the same as another one but for blanks: of these the probabilities are added
        up, those of the same tokens once. How many were left out is said in the log. Of a source nothing may be left.

        Raises: `CacheMismatch` where the texts were written for other sources, are not all there, or are damaged.
        """
        return self.sorted_out(sources)[0]

    def sorted_out(self, sources: Sequence[str]) -> tuple[list[list[Hypothesis]], Counter[str]]:
        """What `hypotheses` gives, and how many others were left out for which of `REASONS`; and, as `UNANSWERED`, for
        how many sources nothing was written, where there are some."""
        rows = self.rows(digest_of_texts(sources))
        left_out: Counter[str] = Counter()
        found = [_kept(row, left_out) for row in rows]
        unanswered = sum(not row for row in rows)
        told = ", ".join(f"{left_out[reason]} {reason}" for reason in REASONS)
        if unanswered:
            left_out[UNANSWERED] = unanswered
            told += f", {unanswered} sources {UNANSWERED}"
        logger.info("%s: %d sources, %d texts; left out: %s", self.path, len(found), sum(map(len, found)), told)
        return found, left_out

    def rows(self, sources: str) -> list[list[Hypothesis]]:
        """All that was written for each of the sources of this digest, as it was written.

        Raises: `CacheMismatch`, as `hypotheses`.
        """
        _check_same(self.facts, {"sources": sources}, self.path)
        rows = [row for part in self.facts.parts for row in _rows(self.path, part)]
        if len(rows) != self.facts.rows:
            raise CacheMismatch(
                f"{self.path} has the texts of {len(rows)} of {self.facts.rows} sources; run again what writes them."
            )
        return rows


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], search: Search
) -> dict[str, Any]:
    """All that decides what is written; nothing of it is None, which would not be compared."""
    config: Any = model.generation_config
    told = {} if config is None else config.to_diff_dict()
    asked = {name: value for name, value in told.items() if name != "transformers_version" and name[0] != "_"}
    told_of = search.model_dump(mode="json")
    settings = {name: "none" if value is None else value for name, value in told_of.items()}
    return {
        "teacher": teacher_digest(model),
        "tokenizer": tokenizer_digest(tokenizer),
        "sources": digest_of_texts(sources),
        "generation config": json.loads(json.dumps(asked, default=str)),
        **settings,
    }


def digest_of_texts(texts: Sequence[str]) -> str:
    """SHA-256 over texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(f"{len(data)}\n".encode() + data)
    return digest.hexdigest()


# ---- the folder ----


def _check_same(facts: Facts, wanted: Mapping[str, Any], path: Path) -> None:
    """Refuses a folder of which something differs, or is not told."""
    told = {**BEFORE} | {name: value for name, value in facts.fingerprint.items() if value is not None}
    check_same({name: told.get(name, "unknown") for name in wanted}, wanted, path)


def _facts(path: Path) -> Facts:
    try:
        facts = Facts.model_validate_json((path / FACTS).read_bytes())
    except FileNotFoundError as error:
        raise CacheMismatch(
            f"{path} holds no texts of a teacher; write some with scripts/generate_targets.py."
        ) from error
    except (OSError, ValidationError, RecursionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CacheMismatch(
            f"{path / FACTS} is damaged ({reason}); remove the folder, and it is made anew."
        ) from error
    if facts.format != FORMAT:
        raise CacheMismatch(
            f"{path / FACTS} is of format {facts.format}, and this version reads {FORMAT}; choose another folder."
        )
    held = sum(part.rows for part in facts.parts)
    if held > facts.rows:
        raise CacheMismatch(
            f"{path / FACTS} is damaged (its parts have {held} rows, and there are {facts.rows}); remove the folder, "
            "and it is made anew."
        )
    return facts


def _begin(path: Path, facts: Facts) -> None:
    """Writes the facts of a new folder, or checks those of one that is there."""
    with FileLock(path / LOCK):
        if (path / FACTS).is_file():
            _check_same(_facts(path), facts.fingerprint, path)
        else:
            _write_facts(path, facts)


def _write_facts(path: Path, facts: Facts) -> None:
    for unfinished in path.glob(f".{FACTS}.*.part"):  # of a writer that was killed
        unfinished.unlink(missing_ok=True)
    write_whole(path / FACTS, (facts.model_dump_json(indent=1) + "\n").encode())


def _missing(path: Path) -> list[int]:
    """The numbers of the parts that are not there yet."""
    facts = _facts(path)
    there = {part.file for part in facts.parts}
    return [number for number in range(math.ceil(facts.rows / PART)) if _name(number) not in there]


def _name(number: int) -> str:
    return f"part-{number:05d}.jsonl"


def _write_part(path: Path, number: int, rows: int, write_rows: WriteRows, waits: bool) -> None:
    """Writes a part unless it is there; where another process is at it, waits for that or leaves it."""
    name = _name(number)
    try:
        with FileLock(path / f".{name}.lock", timeout=-1 if waits else 0):
            if number not in _missing(path):
                return
            for unfinished in path.glob(f".{name}.*.part"):  # of a writer that was killed
                unfinished.unlink(missing_ok=True)
            found = list(write_rows(number * PART, min((number + 1) * PART, rows)))
            lines = [json.dumps({"hypotheses": [each._asdict() for each in row]}, ensure_ascii=False) for row in found]
            data = ("\n".join(lines) + "\n").encode()
            write_whole(path / name, data)
            _add(path, PartFacts(file=name, rows=len(found), sha256=hashlib.sha256(data).hexdigest()))
    except Timeout:
        return


def _add(path: Path, part: PartFacts) -> None:
    """Names a part in the facts."""
    with FileLock(path / LOCK):
        facts = _facts(path)
        parts = sorted([*facts.parts, part], key=lambda each: (len(each.file), each.file))
        facts = facts.model_copy(update={"parts": parts})
        _write_facts(path, facts)
        logger.info("%s: the texts of %d of %d rows are written", path, sum(p.rows for p in parts), facts.rows)


def _rows(path: Path, part: PartFacts) -> list[list[Hypothesis]]:
    place = path / part.file
    try:
        data = place.read_bytes()
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise ValueError("its SHA-256 differs")
        lines = [_Line.model_validate_json(line) for line in data.splitlines()]  # of bytes: texts hold line separators
        rows = [[Hypothesis(**each.model_dump()) for each in line.hypotheses] for line in lines]
        if len(rows) != part.rows:
            raise ValueError(f"it has {len(rows)} rows for {part.rows}")
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CacheMismatch(f"{place} is damaged ({reason}); remove the folder, and it is made anew.") from error
    return rows


# ---- what is kept ----


def _kept(row: list[Hypothesis], left_out: Counter[str]) -> list[Hypothesis]:
    """The hypotheses that say something, each once, in their order; counts the others by the reason."""
    found: dict[str, Hypothesis] = {}
    tokens: dict[str, set[tuple[int, ...]]] = {}
    for each in row:
        words = said(each.text)
        if not words or not math.isfinite(each.score):
            left_out["empty"] += 1
        elif not each.ended:
            left_out["too long"] += 1
        elif words in found:
            left_out["duplicate"] += 1
            if each.ids not in tokens[words]:  # drawn again it is no more probable
                found[words] = found[words]._replace(score=_log_of_sum(found[words].score, each.score))
                tokens[words].add(each.ids)
        else:
            found[words], tokens[words] = each, {each.ids}
    return list(found.values())


def said(text: str) -> str:
    """What a text says, whatever its blanks are and however its letters are composed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _log_of_sum(first: float, second: float) -> float:
    """log(e^first + e^second)."""
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high))
