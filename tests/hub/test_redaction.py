"""What must not leave the machine."""

from __future__ import annotations

import enum
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_distill.hub import redaction
from hf_distill.hub.redaction import redacted, redacted_command, redacted_text, secrets_in

TOKEN = "hf_" + "aB3" * 12


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(redaction.socket, "gethostname", lambda: "ada")
    monkeypatch.setattr(redaction, "get_token", lambda: None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("google/bert_uncased_L-2", "google/bert_uncased_L-2"),
        ("https://huggingface.co/root/x", "https://huggingface.co/root/x"),
        ("and/or 1/2", "and/or 1/2"),
        ("data/train.csv", "data/train.csv"),
        (r"layer\.[0-5]\..*", r"layer\.[0-5]\..*"),
        ("/home/ada/secret/train.csv", "train.csv"),
        ("/home/ada/my documents/train set.csv", "train set.csv"),
        ("~/secret/train.csv", "train.csv"),
        ("../secret/train.csv", "train.csv"),
        (r"C:\Users\ada\train.csv", "train.csv"),
        ("C:/Users/ada/train.csv", "train.csv"),
        (r"\\server\share\train.csv", "train.csv"),
        ("see file:///home/ada/x.py now", "see x.py now"),
        ("a=/home/ada/x.py,b=/srv/y", "a=x.py,b=y"),
        ("PATH:/home/ada/bin:/usr/bin", "PATH:bin:bin"),
        ('{"train": "/srv/ada/a.jsonl"}', '{"train": "a.jsonl"}'),
        ("/", "path"),
        (f"token {TOKEN}.", "token [token removed]."),
        ("hf_short", "hf_short"),
        ("runs/Jul01_10-00-00_ada", "runs/Jul01_10-00-00_host"),
        ("ada", "host"),
        ("adaptive", "adaptive"),
        ("me/ada-small", "me/ada-small"),
        ("lone \ud800", "lone ?"),
    ],
)
def test_text(text: str, shown: str) -> None:
    assert redacted_text(text) == shown
    assert redacted_text(shown) == ("host" if shown == "ada" else shown)


def test_paths_inside_the_working_tree_become_relative(tmp_path: Path) -> None:
    assert redacted_text(str(tmp_path / "data" / "a.csv")) == "data/a.csv"
    assert redacted_text(f"--file={tmp_path}/data/a.csv") == "--file=data/a.csv"
    assert redacted_text(f"{tmp_path}/../b.csv") == "b.csv"


class Colour(enum.Enum):
    RED = "red"


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": (1, 2.5, None, True)}, {"a": [1, 2.5, None, True]}),
        ({3: Colour.RED, "o": Opaque()}, {"3": "red", "o": "Opaque"}),
        ({"x": math.inf, "y": -math.inf, "z": math.nan}, {"x": "inf", "y": "-inf", "z": "nan"}),
        ({"i": np.int64(3), "f": np.float32(0.5)}, {"i": 3, "f": 0.5}),
        ({"hub_token": TOKEN, "push_to_hub_token": None, "api_key": "x"}, {"push_to_hub_token": None}),
        ({"logging_dir": "runs/x_ada", "output_dir": "/home/ada/out"}, {"output_dir": "out"}),
        ({"path": Path("/home/ada/out"), "set": {"b", "a"}}, {"path": "out", "set": ["a", "b"]}),
    ],
)
def test_values(value: Any, plain: Any) -> None:
    assert redacted(value) == plain
    json.dumps(redacted(value), allow_nan=False)


def test_command() -> None:
    argv = [
        "/opt/bin/run",
        "--hub_token",
        "short",
        "--password=x",
        "--data=/srv/a.csv",
        "--api-key",
        "--seed",
        "1",
        TOKEN,
    ]
    assert redacted_command(argv) == [
        "run",
        "--hub_token",
        "[token removed]",
        "--password=[token removed]",
        "--data=a.csv",
        "--api-key",
        "--seed",
        "1",
        "[token removed]",
    ]


def test_secrets_are_found_and_not_repeated(tmp_path: Path) -> None:
    [found] = secrets_in(f'{{"a": "{TOKEN}"}}'.encode(), tmp_path)
    assert found == "a Hub token"


def test_the_token_in_use_is_found_whatever_its_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "get_token", lambda: "unusual-form")
    assert secrets_in(b"x unusual-form y", tmp_path) == ["a Hub token"]
    assert secrets_in(b"x usual y", tmp_path) == []


@pytest.mark.parametrize("spelling", ["{}/x", "file://{}/x", '"{}"', "see {}."])
def test_paths_of_this_machine_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.setattr(redaction.Path, "home", lambda: Path("/home/ada"))
    for place in ("/home/ada", str(tmp_path), tempfile.gettempdir()):
        [found] = secrets_in(spelling.format(place).encode(), tmp_path)
        assert found.startswith("the path '")
        assert secrets_in(spelling.format(place).encode(), tmp_path, paths=False) == []


@pytest.mark.parametrize("text", ["https://x.org/home/ada", "/home/adam/x", "a/home/ada/x", "/home/ada-2", "/etc/x"])
def test_other_paths_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(redaction.Path, "home", lambda: Path("/home/ada"))
    assert secrets_in(text.encode(), tmp_path) == []
