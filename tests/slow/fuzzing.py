"""Damages recipes, records and caches at random, and reads them, until time is up: what is damaged is read or refused
by name, and anything else is written down with the bytes that caused it.

    python -m tests.slow.fuzzing recipe --minutes 20
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save

from hf_distill.activations import Signal
from hf_distill.errors import CacheMismatch, HubError, RecipeError
from hf_distill.hub.record import Record
from hf_distill.recipe import Recipe
from hf_distill.recipe.loading import shipped
from hf_distill.teachers import Cached
from tests import tiny
from tests.hub.conftest import make_record
from tests.property.drawing import JUNK
from tests.recipe.test_bad_recipes import GOOD, OWN
from tests.recipe.test_hostile_recipes import CHAIN
from tests.teachers.test_hostile_caches import replace, tell, written

PIECES = [
    b"", b"\0", b"\n", b"  ", b": ", b"- ", b"{", b"}", b"[", b"]", b'"', b"'", b"&a ", b"*a", b"!!", b"<<: ", b"? ",
    b"!!python/name:x ", b"~", b"|", b">", b"#", b"%", b"@", b"\t", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"9" * 40, b"-1", b"1e999", b".nan", b"null", b"true", b"[" * 2000, b"{a: " * 60, b"---\n", b"...\n",
    b"\xe2\x80\xa8", b"\\u0000",
]  # fmt: skip
"""What is put into texts."""

PLAIN_JUNK = [value for value in JUNK if not isinstance(value, bytes)]
"""What JSON can hold."""


class Reader:
    """Something that reads files of strangers: `damage` makes one of them, `read` reads it or raises `refuses`."""

    refuses: type[Exception]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def damage(self, chance: random.Random) -> None:
        raise NotImplementedError

    def read(self) -> None:
        raise NotImplementedError


def cut_up(data: bytes, chance: random.Random) -> bytes:
    """The bytes with up to four places changed: something gone, put in, flipped, or repeated."""
    for _ in range(chance.randint(1, 4)):
        at, gone = chance.randrange(len(data) + 1), chance.choice([0, 0, 1, 1, 4, 40, 10**9])
        kind = chance.random()
        put = chance.choice(PIECES)
        if kind < 0.2 and data:
            put = bytes([data[at % len(data)] ^ (1 << chance.randrange(8))])
        elif kind < 0.35:
            start = chance.randrange(len(data) + 1)
            put = data[start : start + chance.randint(1, 60)]
        data = data[:at] + put + data[at + gone :]
    return data


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def other_values(data: Any, chance: random.Random) -> Any:
    """The plain values with up to three of them taken out, replaced, or replaced by all of them."""
    data = copy.deepcopy(data)
    for _ in range(chance.randint(1, 3)):
        inner = places(data)[1:]
        if not inner:
            break
        *before, last = chance.choice(inner)
        holder = data
        for key in before:
            holder = holder[key]
        kind = chance.random()
        if kind < 0.15:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(data if kind < 0.2 else chance.choice(PLAIN_JUNK))
    return data


class Recipes(Reader):
    refuses = RecipeError

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.texts = [text.encode() for text in (GOOD, OWN, CHAIN)]
        self.texts += [file.read_bytes() for file in list(shipped().values())[::4]]
        self.path = folder / "a.yaml"
        self.data: Any = None

    def damage(self, chance: random.Random) -> None:
        text = chance.choice(self.texts)
        self.data = None
        if chance.random() < 0.4:
            self.data = other_values(Recipe.from_yaml(text.decode()).to_dict(), chance)
            self.path.write_text(json.dumps(self.data))
        else:
            self.path.write_bytes(cut_up(text, chance))

    def read(self) -> None:
        recipe = Recipe.load(self.path) if self.data is None else Recipe.from_dict(self.data)
        if Recipe.from_yaml(recipe.to_yaml()) != recipe:
            raise AssertionError("what was read is not what was written")
        for stage in recipe.stages:
            try:
                stage.terms()
            except ValueError as error:
                if not type(error).__module__.startswith("hf_distill"):
                    raise


class Records(Reader):
    refuses = HubError

    def damage(self, chance: random.Random) -> None:
        path = make_record().write(self.folder)
        if chance.random() < 0.6:
            path.write_text(json.dumps(other_values(json.loads(path.read_text()), chance)))
        else:
            path.write_bytes(cut_up(path.read_bytes(), chance))

    def read(self) -> None:
        record = Record.read(self.folder)
        record.write(self.folder)
        if Record.read(self.folder) != record:
            raise AssertionError("what was read is not what was written")


class Caches(Reader):
    """A cache is damaged with the digests as they were, or with right ones for what is wrong."""

    refuses = CacheMismatch

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.originals = [written(folder / codec, codec) for codec in ("int8", "rotated")]
        self.cache = folder / "cache"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "VOCABULARY", 1100)  # as in `written`
            self.rows = tiny.rows("causal_lm", 16)

    def damage(self, chance: random.Random) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.copytree(chance.choice(self.originals), self.cache)
        kind = chance.choice(["bytes", "facts", "config", "tensors", "beside"])
        names = sorted(path.name for path in self.cache.iterdir() if path.is_file() and path.name[0] != ".")
        if kind == "bytes":
            path = self.cache / chance.choice(names)
            path.write_bytes(cut_up(path.read_bytes(), chance))
        elif kind == "facts":
            told = other_values(json.loads((self.cache / "cache.json").read_text()), chance)
            (self.cache / "cache.json").write_text(json.dumps(told))
            if "digest" in told:
                tell(self.cache)
        elif kind == "config":
            told = other_values(json.loads((self.cache / "config.json").read_text()), chance)
            replace(self.cache, "config.json", json.dumps(told).encode())
        elif kind == "beside":
            name = chance.choice(["config.json", "head.safetensors", "tables.safetensors"])
            replace(self.cache, name, cut_up((self.cache / name).read_bytes(), chance))
        else:
            self._other_tensors(chance)

    def _other_tensors(self, chance: random.Random) -> None:
        name = chance.choice(["head.safetensors", "tables.safetensors"])
        tensors = load((self.cache / name).read_bytes())
        key = chance.choice(sorted(tensors))
        changes: list[Callable[[Any], Any]] = [
            lambda t: t.double(), lambda t: t.int(), lambda t: t[:1], lambda t: t * float("nan"),
            lambda t: t.flatten(), lambda t: t[None], lambda t: t.bool(), lambda t: t[:0], lambda t: -t,
            lambda t: t.half(),
        ]  # fmt: skip
        try:
            tensors[key] = chance.choice(changes)(tensors[key]).contiguous()
        except (RuntimeError, IndexError):
            return
        replace(self.cache, name, save(tensors))

    def read(self) -> None:
        cached = Cached(self.cache)
        batch = cached.reading(tiny.Pad())(self.rows)
        cached.bind(frozenset({Signal("logits")}))
        cached.activations(batch)


READERS: dict[str, type[Reader]] = {"recipe": Recipes, "record": Records, "cache": Caches}


def fuzz(name: str, folder: Path, seconds: float, seed: int = 0) -> Counter[str]:
    """How often something was read and refused. Raises what is neither, with a note of the seed of the example; the
    file is left in `folder`.
    """
    reader, found = READERS[name](folder), Counter[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = seed + found.total()
        reader.damage(random.Random(number))
        try:
            reader.read()
        except reader.refuses as error:
            found["refused"] += 1
            if not str(error).strip():
                raise AssertionError(f"example {number}: refused without a word") from error
        except BaseException as error:
            error.add_note(f"{name}, example {number}; its files are in {folder}")
            raise
        else:
            found["read"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first example")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hf_distill_fuzz_"))
    found = fuzz(given.reader, folder, 60 * given.minutes, given.seed)
    sys.stdout.write(f"{given.reader}: {found.total()} examples, {found['refused']} refused, {found['read']} read\n")


if __name__ == "__main__":
    main()
