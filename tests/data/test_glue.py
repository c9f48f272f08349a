"""The table of GLUE tasks, and loading them from files and from a stand-in for the Hub."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_distill.data import glue
from hf_distill.errors import DataError

SENTENCES = [
    {"sentence": "fine ", "label": 1, "idx": 0},
    {"sentence": "null", "label": 0, "idx": 1},
    {"sentence": "", "label": 1, "idx": 2},
]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_the_table_has_the_tasks_of_the_hub() -> None:
    assert list(glue.TASKS) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]
    assert [task.name for task in glue.TASKS.values() if task.kind == "regression"] == ["stsb"]
    assert glue.task("wnli").label_names == ("not_entailment", "entailment")
    assert glue.task("rte").label_names == ("entailment", "not_entailment")
    assert glue.task("mnli").label_names == glue.task("ax").label_names == ("entailment", "neutral", "contradiction")
    assert glue.task("mnli").validation_splits == ("validation_matched", "validation_mismatched")
    assert glue.task("mnli").test_splits == ("test_matched", "test_mismatched")
    assert (glue.task("ax").validation_splits, glue.task("ax").test_splits) == ((), ("test",))


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(DataError, match="unknown GLUE task 'sst-2'; did you mean 'sst2'"):
        glue.task("sst-2")


def test_local_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl.gz", SENTENCES)
    write(tmp_path / "validation.jsonl", SENTENCES[:2])
    write(tmp_path / "test.jsonl", [row | {"label": -1} for row in SENTENCES])
    data = glue.task("sst2").load(tmp_path)
    assert data.splits["train"].to_dict() == {"sentence": ["fine ", "null", ""], "label": [1, 0, 1]}
    assert data.splits["train"].features["label"].names == ["negative", "positive"]
    assert data.splits["test"].column_names == ["sentence"]
    assert data.label_names == ("negative", "positive")
    assert set(data.sources) == {"train", "validation", "test"}


def test_csv_and_label_names_give_the_same_as_jsonl(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("idx,sentence,label\n0,fine ,1\n1,null,0\n2,,1\n")
    write(tmp_path / "validation.json", [row | {"label": ["negative", "positive"][row["label"]]} for row in SENTENCES])
    (tmp_path / "test.csv").write_text("sentence,label\nfine,-1\n")
    data = glue.task("sst2").load(tmp_path)
    assert data.splits["train"].to_dict() == data.splits["validation"].to_dict()
    assert data.splits["train"]["label"][:] == [1, 0, 1]
    assert data.splits["test"].column_names == ["sentence"]


def test_mnli_has_two_validation_splits_and_needs_both(tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": 2}]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "validation_matched.jsonl", rows)
    with pytest.raises(
        DataError, match=r"'mnli': no file validation_mismatched .* holds train\.jsonl, validation_matched\.jsonl"
    ):
        glue.task("mnli").load(tmp_path)
    write(tmp_path / "validation_mismatched.jsonl", rows)
    data = glue.task("mnli").load(tmp_path)
    assert list(data.splits) == ["train", "validation_matched", "validation_mismatched"]


def test_stsb_is_a_regression(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 5}])
    write(tmp_path / "validation.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 2.5}])
    data = glue.task("stsb").load(tmp_path)
    assert data.kind == "regression"
    assert data.splits["train"]["label"][:] == [5.0]
    assert data.splits["validation"].features["label"].dtype == "float32"


def test_only_needed_splits_must_be_there(tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", SENTENCES)
    assert list(glue.task("sst2").load(tmp_path, needed=["validation"]).splits) == ["validation"]
    with pytest.raises(DataError, match="no file train"):
        glue.task("sst2").load(tmp_path)
    with pytest.raises(DataError, match=r"no split 'validaton'; did you mean 'validation'"):
        glue.task("sst2").load(tmp_path, needed=["validaton"])
    with pytest.raises(DataError, match="there is no folder"):
        glue.task("sst2").load(tmp_path / "none")
    with pytest.raises(DataError, match="no file test"):
        glue.task("ax").load(tmp_path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sentence": None, "label": 1}, r"train\.jsonl, line 4, column 'sentence'"),
        ({"sentence": "x", "label": 2}, r"line 4, column 'label': unknown label 2 .* known: 0, 1, negative, positive"),
        ({"sentence": "x", "label": -1}, r"line 4, column 'label': unknown label -1"),
        ({"sentence": "x"}, r"line 4, column 'label': the label is null"),
    ],
)
def test_wrong_rows_are_named(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*SENTENCES, row])
    with pytest.raises(DataError, match=words):
        glue.task("sst2").load(tmp_path, needed=["train"])


def test_another_tasks_file_lacks_the_columns(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", SENTENCES)
    with pytest.raises(DataError, match=r"train\.jsonl: no column 'sentence1'; did you mean 'sentence'\? known: idx"):
        glue.task("mrpc").load(tmp_path, needed=["train"])


def hub(labels: ClassLabel | Value, **splits: list[Any]) -> DatasetDict:
    features = Features({"sentence": Value("string"), "label": labels, "idx": Value("int32")})
    made = {
        split: Dataset.from_dict(
            {"sentence": ["x"] * len(cells), "label": cells, "idx": list(range(len(cells)))}, features
        )
        for split, cells in splits.items()
    }
    return DatasetDict(made)


SENTIMENT = ClassLabel(names=["negative", "positive"])
COMMIT = "c" * 40


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stand-in for `download` was asked for; its last element answers, at a commit."""
    asked: list[Any] = []

    def download(*arguments: Any) -> tuple[DatasetDict, str]:
        answer = asked.pop()
        asked.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer, COMMIT

    monkeypatch.setattr(glue, "download", download)
    return asked


def test_the_hub(calls: list[Any], tmp_path: Path) -> None:
    calls.append(hub(SENTIMENT, train=[1, 0], validation=[0], test=[-1, -1]))
    data = glue.task("sst2").load(revision="abc", cache_dir="here")
    assert calls == [("nyu-mll/glue", "sst2", "abc", "here")]
    assert data.commit == COMMIT
    assert data.splits["train"].to_dict() == {"sentence": ["x", "x"], "label": [1, 0]}
    assert data.splits["test"].column_names == ["sentence"]
    write(tmp_path / "train.jsonl", [{"sentence": "x", "label": 1}, {"sentence": "x", "label": 0}])
    local = glue.task("sst2").load(tmp_path, needed=["train"])
    assert local.splits["train"].features == data.splits["train"].features
    assert local.commit is None


def test_the_sources_of_the_hub_follow_the_rows(calls: list[Any]) -> None:
    found = []
    for train in ([1, 0], [1, 0], [0, 1]):
        calls.append(hub(SENTIMENT, train=train, validation=[0]))
        found.append(glue.task("sst2").load().sources["train"])
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 64


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ConnectionError("Couldn't reach it"), "revision main, could not be loaded: Couldn't reach it. .*dataset_dir"),
        (ValueError("BuilderConfig 'sst2' not found"), "not found"),
        (hub(SENTIMENT, train=[1]), "no split 'validation'; it has train"),
        (hub(SENTIMENT, train=[], validation=[1]), "split 'train': holds no rows"),
        (
            hub(ClassLabel(names=["positive", "negative"]), train=[1], validation=[1]),
            "labels are .'positive', 'negative'",
        ),
        (hub(Value("float32"), train=[1.0], validation=[1.0]), r"labels are \[\], expected"),
        (
            hub(SENTIMENT, train=[1], validation=[1]).rename_column("sentence", "text"),
            "no column 'sentence'; known: idx",
        ),
    ],
)
def test_what_the_hub_gives_is_checked(answer: Any, words: str, calls: list[Any]) -> None:
    calls.append(answer)
    with pytest.raises(DataError, match=words):
        glue.task("sst2").load()
