"""Pairs of texts as a run sees them, and what a teacher writes in place of their targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_distill.errors import DataError
from hf_distill.recipe import Recipe
from hf_distill.recipe.sections.data import Generate
from hf_distill.runs.abilities import Sources
from hf_distill.runs.arguments import evaluation_arguments
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.generating import learned_targets, sorted_out, texts_counted
from hf_distill.runs.measuring import by_length, generated_texts
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.translation import Translation
from hf_distill.runs.workloads.words import Words
from hf_distill.teachers import generated
from hf_distill.teachers.generation import Hypothesis
from tests import tiny_runs, writers

COLUMNS = {"source_column": "en", "target_column": "de", "prefix": "w1 ", "max_target_length": 4}


def recipe(folder: Path, **changes: Any) -> Recipe:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    written: dict[str, Any] = {
        "schema": 1,
        "max_length": 6,
        "data": {"files": files, "translation": COLUMNS},
        "teacher": {"model": "x", "generate": {"folder": str(folder / "texts")}},
        "student": {"model": "x"},
        "stages": [{"name": "a", "targets": "best", "objectives": [{"labels": {}}]}],
    }
    return Recipe.from_dict(written | changes)


@pytest.fixture
def loaded(tmp_path: Path) -> Translation:
    writers.write_pairs(tmp_path, COLUMNS)
    found = load_workload(recipe(tmp_path))
    assert isinstance(found, Translation)
    return found


def test_rows_are_read_behind_the_prefix_and_cut(loaded: Translation) -> None:
    tokenizer = writers.tokenizer()
    rows = loaded.read(tokenizer, Limits(6, [None], frozenset()), ["train"])["train"]
    assert loaded.evaluated_splits == ("validation",)
    assert len(rows) == 12
    for row, text in zip(rows, writers.texts(12), strict=True):
        assert row["input_ids"] == [*tokenizer("w1 " + text)["input_ids"][:-1][:5], writers.END]
        backwards = " ".join(text.split()[::-1])
        assert row["labels"] == [*tokenizer(backwards)["input_ids"][:-1][:3], writers.END]
        assert row["length"] == max(len(row["input_ids"]), len(row["labels"]))
    batch = loaded.collator(tokenizer)([rows[i] for i in range(4)])
    assert set(batch["labels"][batch["labels"] < 0].tolist()) <= {-100}
    assert batch["attention_mask"].sum(1).tolist() == [len(rows[i]["input_ids"]) for i in range(4)]


def test_targets_that_are_cut_are_told_once_with_their_number(
    loaded: Translation, caplog: pytest.LogCaptureFixture
) -> None:
    """Of twelve targets, those of more than three words; the end of the text is a token as well."""
    number = sum(len(text.split()) > 3 for text in writers.texts(12))
    assert 0 < number < 12
    loaded.read(writers.tokenizer(), Limits(6, [None], frozenset()), ["train"])
    told = [line for line in caplog.messages if "targets" in line]
    assert told == [
        f"{number} of 12 targets are longer than 4 tokens and are cut; raise max_target_length, or max_length if that "
        "is what they are cut to"
    ]
    caplog.clear()
    short = replace(loaded, settings=loaded.settings.model_copy(update={"max_target_length": 64}))
    short.read(writers.tokenizer(), Limits(64, [None], frozenset()), ["train"])
    assert not [line for line in caplog.messages if "targets" in line]


def test_other_targets_take_the_place_of_those_of_the_training_rows(loaded: Translation, tmp_path: Path) -> None:
    asked: list[Any] = []

    def make(rows: Dataset, column: str) -> Dataset:
        asked.append(column)
        return rows.select([0]).map(lambda _row: {column: "w9", "hypothesis": 0, "hypothesis_scores": [-1.0]})

    found = loaded.retargeted(make)
    assert asked == ["target"]
    tokenizer = writers.tokenizer()
    assert loaded.sources_of(recipe(tmp_path), tokenizer) == Sources(
        ["w1 " + text for text in writers.texts(12)], tokenizer
    )
    rows = found.read(writers.tokenizer(), Limits(6, [None], frozenset()))
    assert rows["train"][0]["labels"] == writers.tokenizer()("w9")["input_ids"]
    assert rows["train"][0]["hypothesis_scores"] == [-1.0]
    assert len(rows["validation"]) == 6
    assert len(loaded.splits["train"]) == 12


@pytest.mark.parametrize(("cell", "words"), [("", "is empty"), (3, r"holds 3 \(int\), expected text")])
def test_cells_without_text_are_refused(tmp_path: Path, cell: Any, words: str) -> None:
    writers.write_pairs(tmp_path, COLUMNS)
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", [{"en": "w1", "de": "w2"}, {"en": "w1", "de": cell}])
    with pytest.raises(DataError, match=rf"train\.jsonl, line 2, column 'de': {words}"):
        load_workload(recipe(tmp_path))
    with pytest.raises(DataError, match="what is predicted are generated texts, and none are asked for; give --pred"):
        load_workload(recipe(tmp_path), predict=True)


def test_generated_texts_are_scored_and_written(tmp_path: Path) -> None:
    writers.write_pairs(tmp_path, COLUMNS)
    (tmp_path / "test.jsonl").write_bytes((tmp_path / "validation.jsonl").read_bytes())
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    data = {"files": files, "translation": {**COLUMNS, "generate": {"beams": 3}}}
    asked = recipe(tmp_path, data=data)
    loaded = load_workload(asked, predict=True)
    assert loaded.generation == {"num_beams": 3, "max_new_tokens": 4}
    assert loaded.metrics == ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "accuracy", "perplexity")
    assert (loaded.evaluated_splits, loaded.test_splits) == (("validation", "test"), ("test",))
    words = Words(np.array([1, 2]), np.array([1, 3]), np.array([0.0, 1.0]))
    assert sorted(loaded.score("test", words)) == ["accuracy", "perplexity"]
    right = [" ".join(text.split()[::-1]) for text in writers.texts(6, 4)]
    found = loaded.with_texts("test", words, right)
    assert loaded.score("test", found) == pytest.approx(
        {"bleu": 100.0, "chrf": 100.0, "rouge1": 100.0, "rouge2": 100.0, "rougeL": 100.0} | loaded.score("test", words)
    )
    assert loaded.predictions("test", loaded.with_texts("test", words, ["a\n b", "c"])) == (
        "predict_results_test.txt", "a b\nc\n",
    )  # fmt: skip
    with pytest.raises(DataError, match="there is no test split to predict"):
        load_workload(asked.override({"data.files.test": None}), predict=True)


def test_what_a_model_generates_comes_in_the_order_of_the_rows(loaded: Translation, tmp_path: Path) -> None:
    """Beside `generate` on each row alone."""
    workload = replace(loaded, settings=loaded.settings.model_copy(update={"generate": Generate(max_new_tokens=5)}))
    model, tokenizer = writers.writer(), writers.tokenizer()
    model.encoder.final_layer_norm.weight.data.mul_(4.0)  # so that what it writes depends on what it reads
    rows, order = by_length(workload.read(tokenizer, Limits(6, [None], frozenset()), ["validation"])["validation"])
    assert list(order) != sorted(order)
    given = {"per_device_eval_batch_size": 4, "use_cpu": True, "disable_tqdm": True}
    arguments = evaluation_arguments(given, tmp_path, 0, "test")
    found = generated_texts(model, tokenizer, rows, order, workload, arguments)
    alone = []
    for text in writers.texts(6, 4):
        ids = torch.tensor([[*tokenizer("w1 " + text)["input_ids"][:-1][:5], writers.END]])
        alone.append(tokenizer.decode(model.generate(ids, max_new_tokens=5)[0], skip_special_tokens=True))
    assert found == alone
    assert len(set(found)) > 1


class TinySetup:
    """What `learned_targets` asks of a set-up."""

    def __init__(self, made: Recipe, folder: Path) -> None:
        self.recipe, self.tokenizer, self.limits = made, writers.tokenizer(), Limits(6, [None], frozenset())
        self.folder = RunFolder(folder)
        self.folder.stages.mkdir(exist_ok=True)

    def recover_teacher(self) -> Any:
        return writers.writer()


def test_rows_that_nothing_whole_was_written_for_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_dict({"source": ["w1", "w2"], "target": ["w3", "w4"]})
    written = [[Hypothesis("w5", (8, 2), -1.0, True)], [Hypothesis("w6", (9,), -1.0, False)]]
    monkeypatch.setattr(generated, "write", lambda *_given: iter(written))
    setup: Any = TinySetup(recipe(tmp_path), tmp_path)
    sources = Sources(["w1", "w2"], setup.tokenizer)
    given = (setup, rows, sources, "target", "best", torch.device("cpu"))
    assert learned_targets(*given).to_dict() == {"source": ["w1"], "target": ["w5"]}
    told = "no text that is kept of 1 of 2 rows, the first of which is row 2 ('w2'; dropped: 1 too long)"
    assert f"{told}; they are left out" in caplog.text
    counts = {"written": 2, "kept": 1, "empty": 0, "too long": 1, "duplicate": 0}
    assert json.loads((tmp_path / "stages" / "teacher-texts.json").read_text()) == counts
    monkeypatch.setattr(generated, "write", lambda *_given: iter(written[1:] * 2))
    changed = recipe(tmp_path, teacher={"model": "x", "generate": {"folder": str(tmp_path / "other")}})
    with pytest.raises(DataError, match="no text that is kept of 2 of 2 rows"):
        learned_targets(TinySetup(changed, tmp_path), *given[1:])  # type: ignore[arg-type]


def test_filters_keep_some_of_the_texts_and_count_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no part of what the folder of texts is for: others are asked of the same one."""
    rows = Dataset.from_dict({"source": ["w1", "w2"], "target": ["w3", "w4"]})
    written = [[Hypothesis("w5 w6", (8, 9, 2), -1.0, True)], [Hypothesis("w4", (7, 2), -1.0, True)]]
    monkeypatch.setattr(
        generated, "write", lambda _model, _reader, left, *_how: iter(written[-len(left) :] if left else ())
    )

    def asked(filters: dict[str, Any]) -> Any:
        generate = {"folder": str(tmp_path / "texts"), "filters": filters}
        setup: Any = TinySetup(recipe(tmp_path, teacher={"model": "x", "generate": generate}), tmp_path)
        sources = Sources(["w1", "w2"], setup.tokenizer)
        found, counts = sorted_out(setup, sources, rows["target"][:], torch.device("cpu"))
        assert texts_counted(setup.folder) == counts
        return [[each.text for each in row] for row in found], counts

    whole = {"written": 2, "kept": 2, "empty": 0, "too long": 0, "duplicate": 0}
    assert asked({}) == ([["w5 w6"], ["w4"]], whole)
    few = {**whole, "kept": 1, "below min_similarity": 1}
    assert asked({"min_similarity": 0.5}) == ([[], ["w4"]], few)
    assert asked({"min_tokens": 3}) == ([["w5 w6"], []], {**whole, "kept": 1, "below min_tokens": 1})
