"""Question answering as a run sees it: windows in any order to answers, figures and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from transformers import EvalPrediction

from hf_distill.data import hub
from hf_distill.errors import DataError
from hf_distill.evaluation.spans import Answer
from hf_distill.recipe import Recipe
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.question_answering import QuestionAnswering
from tests import tiny_runs, tiny_tasks

BASE: dict[str, Any] = {
    "schema": 1,
    "max_length": 24,
    "student": {"model": "x"},
    "stages": [{"name": "a", "objectives": [{"labels": {}}]}],
}


def recipe(data: dict[str, Any], **settings: Any) -> Recipe:
    settings = {"doc_stride": 4, **settings.pop("question_answering", {})} | settings
    return Recipe.from_dict({**BASE, "data": {**data, "question_answering": settings}})


def workload(made: Recipe, predict: bool = False) -> QuestionAnswering:
    found = load_workload(made, predict=predict)
    assert isinstance(found, QuestionAnswering)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tasks.write_squad(tmp_path_factory.mktemp("squad"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> QuestionAnswering:
    return workload(
        recipe({"files": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}})
    )


def test_splits_and_sizes(loaded: QuestionAnswering) -> None:
    assert dict(loaded.sizes) == {"train": 24, "validation": 9, "test": 4}
    assert (loaded.evaluated_splits, loaded.test_splits, loaded.reported_split) == (
        ("validation",),
        ("test",),
        "validation",
    )
    assert loaded.name == "train.jsonl"
    assert loaded.score("test", []) == {}
    assert len(list(loaded.samples())) == 48


def test_positions_hold_whichever_side_the_tokenizer_pads(loaded: QuestionAnswering) -> None:
    tokenizer = tiny_runs.tokenizer()
    tokenizer.padding_side = "left"
    windows = loaded.read(tokenizer, Limits(24, [32], frozenset()), ["train"])["train"]
    rows = [{name: row[name] for name in ("input_ids", "start_positions")} for row in list(windows)[:6]]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    batch = loaded.collator(tokenizer)(rows)
    for i, row in enumerate(rows):
        assert batch["input_ids"][i, : len(row["input_ids"])].tolist() == row["input_ids"]
    assert tokenizer.padding_side == "left"


def test_perfect_scores_in_any_order_of_windows_are_perfect_answers(loaded: QuestionAnswering) -> None:
    windows = loaded.read(tiny_runs.tokenizer(), Limits(24, [32], frozenset()), ["validation"])["validation"]
    assert len(windows) > loaded.sizes["validation"]
    order = np.random.default_rng(0).permutation(len(windows))
    rows = windows.select(order)
    start, end = (np.full((len(rows), 24), -5.0, dtype=np.float32) for _ in range(2))
    for i, row in enumerate(rows):
        if row["start_positions"]:  # a window without the answer has low scores everywhere
            start[i, row["start_positions"]] = end[i, row["end_positions"]] = 5.0
    found = EvalPrediction(predictions=(start, end), label_ids=None)
    answers = loaded.answers("validation", rows, order, found, ())
    assert loaded.score("validation", answers) == {"exact_match": 100.0, "f1": 100.0}
    golden = [row["text"][0] for row in loaded.data.splits["validation"]["answers"]]
    assert [answer.text for answer in answers] == golden


def answered(*texts: str) -> list[Answer]:
    return [Answer(text, 0.0) for text in texts]


def test_the_interval_and_the_lead_go_over_questions(loaded: QuestionAnswering) -> None:
    golden = [row["text"][0] for row in loaded.data.splits["validation"]["answers"]]
    right, wrong = answered(*golden), answered(*["nothing"] * 9)
    half = [*right[:4], *wrong[4:]]
    assert loaded.interval("validation", right) == (100.0, 100.0)
    low, high = loaded.interval("validation", half)
    assert 0.0 < low < 100 * 4 / 9 < high < 100.0
    assert loaded.lead("validation", right, wrong).startswith("Student against control: f1 +100.000, 95 % [+100.000, ")
    assert "f1 -100.000" in loaded.lead("validation", wrong, right)
    assert "f1 +0.000, 95 % [+0.000, +0.000]" in loaded.lead("validation", half, half)


def test_the_f1_of_a_question_is_that_of_the_metric(folder: Path, tmp_path: Path) -> None:
    """SQuAD 1.1 gives 0 for two texts of articles alone, and 2.0 gives 1: the mean of the evidence is the metric."""
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    first = rows[0]["context"].split()[0]
    rows[0] |= {"context": f"the {first}", "answers": {"text": ["the"], "answer_start": [0]}}
    tiny_runs.write_jsonl(tmp_path / "validation.jsonl", rows)
    files = {"train": str(folder / "train.jsonl"), "validation": str(tmp_path / "validation.jsonl")}
    for second, expected in ((False, 0.0), (True, 100.0)):
        found = workload(recipe({"files": files}, question_answering={"version_2_with_negative": second}))
        answers = answered("a", *[""] * 8)
        assert found.evidence("validation", answers).rows[0, 0] == expected
        assert found.evidence("validation", answers).value() == pytest.approx(found.score("validation", answers)["f1"])


def test_agreement_is_on_the_same_answer(loaded: QuestionAnswering) -> None:
    ours, theirs = answered("The film", "plot", "", "x"), answered("film!", "a plot", "y", "x")
    assert loaded.agreement("validation", ours, theirs) == 0.75


def test_predictions_go_by_id(loaded: QuestionAnswering) -> None:
    name, text = loaded.predictions("test", answered("a", "", "ü", '"'))
    assert name == "predict_results_test.json"
    assert json.loads(text) == {"q100": "a", "q101": "", "q102": "ü", "q103": '"'}


def test_own_files_are_split_by_context(folder: Path) -> None:
    data = {"files": {"train": str(folder / "train.jsonl")}, "split": {"validation": 0.25}}
    splits = workload(recipe(data)).data.splits
    assert not set(splits["train"]["context"]) & set(splits["validation"]["context"])
    both = r"no validation split; give a validation file \(--validation_file\), or data\.split\.validation"
    with pytest.raises(DataError, match=both):
        workload(recipe({"files": data["files"]}))
    with pytest.raises(DataError, match="no test split to predict"):
        workload(recipe(data), predict=True)


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    splits = {name: Dataset.from_list(tiny_tasks.question_rows(n)) for name, n in (("train", 8), ("validation", 4))}

    def download(*names: Any) -> tuple[DatasetDict, str]:
        asked.append(names)
        return DatasetDict({**splits, "extra": splits["train"]}), "c" * 40

    monkeypatch.setattr(hub, "download", download)
    made = recipe({"hub": {"id": "me/questions", "config": "plain", "revision": "v1"}})
    found = workload(made)
    assert asked == [("me/questions", "plain", "v1")]
    assert found.data.splits["train"]["answers"][0] == splits["train"][0]["answers"]
    facts = found.facts(made)
    assert (facts.name, facts.id, facts.config, facts.revision) == ("me/questions", "me/questions", "plain", "c" * 40)
    assert facts.sizes == {"train": 8, "validation": 4}
    assert set(facts.sources) == {"train", "validation"}
    monkeypatch.setattr(hub, "download", lambda *names: (DatasetDict({"test": splits["train"]}), None))
    with pytest.raises(DataError, match="me/questions: there is no split train; it has test"):
        workload(made)


def test_a_hub_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*names: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(
        DataError, match="me/questions, configuration default, revision main, could not be loaded: no route"
    ):
        workload(recipe({"hub": {"id": "me/questions"}}))
