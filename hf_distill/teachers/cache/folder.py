"""The folder of a cache: what it holds, for which teacher, and who may write into it.

    cache.json         the facts: fingerprint, signals with their codecs, and the shards that belong to the cache
    config.json        the teacher's configuration
    tables.safetensors the fixed tables of the codecs, SIGNAL/TABLE
    head.safetensors   the teacher's head, where logits are made out of its last hidden state
    shard-*.safetensors

A shard is written under another name and renamed, and counts once `cache.json`, which is replaced as a whole, names
it; so a writer that is killed leaves the cache as it was, plus a file that the next writer replaces.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hf_distill.errors import CacheMismatch
from hf_distill.locks import claimed
from hf_distill.teachers.cache.shards import Shard, unreadable

FORMAT = 1
FACTS, CONFIG, TABLES, HEAD = "cache.json", "config.json", "tables.safetensors", "head.safetensors"
_SELF = "digest"
"""The digest of all the rest of the facts."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SignalFacts(_Strict):
    """One signal: what of the teacher is written down, by row or by token, how wide it is, and with which codec."""

    name: str
    by_token: bool
    width: int = Field(ge=1)
    codec: str
    settings: dict[str, Any]


class ShardFacts(_Strict):
    """One shard: its file, rows and tokens, and the digest of its header, keys, lengths and checksums."""

    file: str = Field(pattern=r"^shard-[0-9]{5,}\.safetensors$")
    rows: int = Field(ge=1)
    tokens: int = Field(ge=0)
    index: str


class Facts(_Strict):
    """What a cache holds. `fingerprint` has an entry for each thing that must be the same when it is read; `columns`
    are the inputs of the teacher; `files` has the digests of what lies beside the shards."""

    format: int
    fingerprint: dict[str, Any]
    class_name: str
    columns: list[str]
    signals: list[SignalFacts] = Field(min_length=1)
    files: dict[str, str]
    shards: list[ShardFacts] = []

    @field_validator("fingerprint")
    @classmethod
    def _has_precision(cls, fingerprint: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(fingerprint.get("precision"), str):
            raise ValueError("the fingerprint has no precision")
        return fingerprint

    @field_validator("signals")
    @classmethod
    def _are_named_once(cls, signals: list[SignalFacts]) -> list[SignalFacts]:
        if len({each.name for each in signals}) < len(signals):
            raise ValueError("a signal is told of twice")
        return signals

    @property
    def digest(self) -> str:
        """The fingerprint in 32 characters."""
        signals = [each.model_dump() for each in self.signals]
        return digest_of(json.dumps([self.format, self.fingerprint, signals], sort_keys=True).encode())

    def told(self) -> dict[str, Any]:
        """What a record tells: the fingerprint, and the codec of each signal."""
        return {"fingerprint": self.digest, "codecs": {each.name: each.codec for each in self.signals}}


def digest_of(data: bytes | memoryview) -> str:
    """BLAKE2b, 128 bits, in 32 characters."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class CacheFolder:
    """Where a cache lies on the disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def exists(self) -> bool:
        """Whether there is a cache, whole or begun."""
        return (self.path / FACTS).is_file()

    def facts(self) -> Facts:
        """What the cache holds.

        Raises: `CacheMismatch` where there is none, or its facts are damaged, of another format, or cannot be read.
        """
        path = self.path / FACTS
        try:
            told = json.loads(path.read_bytes())
            if told["format"] != FORMAT:
                raise CacheMismatch(
                    f"{path} is of format {told['format']!r}, and this version reads {FORMAT}; make the cache anew in "
                    "another folder."
                )
            if told.pop(_SELF) != _own_digest(told):
                raise ValueError("its digest differs")
            return Facts.model_validate(told)
        except FileNotFoundError as error:
            raise CacheMismatch(
                f"{self.path} holds no teacher's cache; write one with scripts/cache_teacher.py, or give the teacher "
                "as well."
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error
        except CacheMismatch:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CacheMismatch(
                f"{path} is damaged ({error}); remove the folder, and the cache is made anew."
            ) from error

    def read(self, name: str, facts: Facts) -> bytes:
        """A file beside the shards.

        Raises: `CacheMismatch` if it is missing, cannot be read, or is not as it was written.
        """
        path = self.path / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise CacheMismatch(
                f"{path} cannot be read: {error.strerror}; remove the folder, and the cache is made anew."
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error
        if digest_of(data) != facts.files.get(name):
            raise CacheMismatch(
                f"{path} is not as it was written (its digest differs); remove the folder, and the cache is made anew."
            )
        return data

    def table(self, name: str, facts: Facts) -> dict[str, Any]:
        """A file beside the shards in JSON.

        Raises: `CacheMismatch`, as `read`, and if it is no table.
        """
        try:
            told = json.loads(self.read(name, facts))
        except (ValueError, RecursionError) as error:
            if isinstance(error, CacheMismatch):
                raise
            raise self.damaged(name, error) from error
        if not isinstance(told, dict):
            raise self.damaged(name, f"it holds {type(told).__name__}, no table")
        return told

    def tensors(self, name: str, facts: Facts) -> dict[str, Tensor]:
        """A file beside the shards in safetensors.

        Raises: `CacheMismatch`, as `read`, and if it is no such file.
        """
        data = self.read(name, facts)
        try:
            tensors: dict[str, Tensor] = load(data)
        except (SafetensorError, KeyError, ValueError) as error:  # a type that torch has not is a KeyError
            raise self.damaged(name, error) from error
        return tensors

    def damaged(self, name: str, why: object) -> CacheMismatch:
        """The error for a file that cannot be used."""
        return CacheMismatch(f"{self.path / name} is damaged ({why}); remove the folder, and the cache is made anew.")

    def shards(self, facts: Facts) -> list[Shard]:
        """The shards, each compared with what is told of it; of the rows themselves nothing is read.

        Raises: `CacheMismatch` for one that is missing, cut off, or another.
        """
        found = []
        for told in facts.shards:
            shard = Shard(self.path / told.file)
            if (len(shard), shard.tokens, shard.index) != (told.rows, told.tokens, told.index):
                raise CacheMismatch(
                    f"{shard.path} is not the shard that {FACTS} tells of: it has {len(shard)} rows and "
                    f"{shard.tokens} tokens for {told.rows} and {told.tokens}, or other keys. Remove the folder, and "
                    "the cache is made anew."
                )
            found.append(shard)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all.

        Raises: `CacheMismatch` where the disk does not take it.
        """
        part = self.path / f".{name}.{os.getpid()}.part"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path / name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise CacheMismatch(
                f"{self.path / name} cannot be written: {error.strerror or error}. What was in the cache before is "
                "untouched; make room and run again to go on."
            ) from error

    def begin(self, facts: Facts, files: Mapping[str, bytes]) -> None:
        """Makes a cache without rows, its facts last."""
        for name, data in files.items():
            self.write(name, data)
        self._write_facts(facts.model_copy(update={"files": {name: digest_of(data) for name, data in files.items()}}))

    def append(self, data: bytes) -> None:
        """Adds a shard. Several processes of one job may do so at a time."""
        with FileLock(self.path / ".append.lock"):
            facts = self.facts()
            name = f"shard-{len(facts.shards):05d}.safetensors"
            self.write(name, data)
            written = Shard(self.path / name)
            shard = ShardFacts(file=name, rows=len(written), tokens=written.tokens, index=written.index)
            self._write_facts(facts.model_copy(update={"shards": [*facts.shards, shard]}))

    def _write_facts(self, facts: Facts) -> None:
        told = facts.model_dump()
        self.write(FACTS, (json.dumps({**told, _SELF: _own_digest(told)}, indent=1) + "\n").encode())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other jobs from writing; one process of a job calls it.

        Raises: `CacheMismatch` if another job is at work in the folder, or it cannot be made.
        """
        at_work = f"another process writes the teacher's cache {self.path}; wait for it, or choose another folder."
        with claimed(self.path, CacheMismatch, at_work, f"the cache {self.path}"):
            for part in self.path.glob(".*.part"):  # of a writer that was killed
                part.unlink(missing_ok=True)
            yield


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Refuses a cache whose fingerprint differs. What one side does not know (None) is not compared.

    Raises: `CacheMismatch` that names what differs, with both values.
    """
    differing = [
        name for name, value in wanted.items() if None not in (value, found.get(name)) and found.get(name) != value
    ]
    if differing:
        told = "; ".join(f"{name} {found.get(name)!r}, here {wanted[name]!r}" for name in differing)
        raise CacheMismatch(
            f"{where} was written with another {' and '.join(differing)}: {told}. Choose another folder for this "
            "cache, or remove that one."
        )


def _own_digest(told: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(told, sort_keys=True).encode())
