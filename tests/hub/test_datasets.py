"""Data sets of the Hub, and the commit that they were read at."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from hf_distill.data.hub import load_splits
from hf_distill.errors import DataError

from .server import Hub


def rows(number: int) -> bytes:
    return b"".join(json.dumps({"text": f"text {i}"}).encode() + b"\n" for i in range(number))


@pytest.fixture
def moods(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set whose main branch has moved since its first commit, with a cache of its own here."""
    known = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_DATASETS_CACHE": tmp_path}
    for name, value in known.items():
        monkeypatch.setattr(datasets.config, name, value)
    card = {"README.md": b"---\nlicense: mit\n---\n"}
    made = hub.create("me/moods", False, {**card, "train.jsonl": rows(3), "validation.jsonl": rows(2)})
    made.branches["main"].append(hub.commit("more", {**card, "train.jsonl": rows(5)}))
    return made.branches["main"][0].oid


def test_rows_are_those_of_a_commit_which_is_told(hub: Hub, moods: str) -> None:
    found, commit = load_splits("me/moods", ["train", "validation"])
    assert (commit, list(found)) == (hub.repositories["me/moods"].branches["main"][-1].oid, ["train"])
    assert found["train"]["text"][:] == [f"text {i}" for i in range(5)]
    found, commit = load_splits("me/moods", ["train", "validation"], revision=moods)
    assert (commit, {name: len(split) for name, split in found.items()}) == (moods, {"train": 3, "validation": 2})


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_another_commit_than_the_one_asked_for_is_refused(moods: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads what it downloaded last, whatever was asked for."""
    load_splits("me/moods", ["train"], revision=moods)
    _, newer = load_splits("me/moods", ["train"])
    offline(monkeypatch)
    with pytest.raises(DataError, match=f"revision {moods}, could .* what was downloaded last is commit {newer}"):
        load_splits("me/moods", ["train"], revision=moods)
    found, commit = load_splits("me/moods", ["train"])
    assert (len(found["train"]), commit) == (5, newer)


def test_a_commit_is_known_where_there_is_no_way_to_the_hub(moods: str, monkeypatch: pytest.MonkeyPatch) -> None:
    online, commit = load_splits("me/moods", ["train"], revision=moods)
    offline(monkeypatch)
    found, again = load_splits("me/moods", ["train"], revision=moods)
    assert again == commit == moods
    assert found["train"].to_dict() == online["train"].to_dict()
