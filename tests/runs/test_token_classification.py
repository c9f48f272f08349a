"""Tags of tokens as a run sees them: padded logits in any order to sentences, figures and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import BertForTokenClassification, EvalPrediction, RobertaTokenizer

from hf_distill.data import hub
from hf_distill.errors import IncompatiblePair, NonFiniteLoss
from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.token_classification import Tagged, TokenClassification
from tests import tiny_runs, tiny_tasks

BASE: dict[str, Any] = {
    "schema": 1,
    "max_length": 24,
    "student": {"model": "x"},
    "stages": [{"name": "a", "objectives": [{"labels": {}}]}],
}
SETTINGS = {"tags_column": "ner_tags", "tag_names": list(tiny_tasks.TAGS)}
STRAIGHT = (0, 1, 2, 3, 4)


def recipe(data: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.from_dict({**BASE, "data": {"token_classification": SETTINGS, **data}, **more})


def workload(made: Recipe) -> TokenClassification:
    found = load_workload(made)
    assert isinstance(found, TokenClassification)
    return found


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> TokenClassification:
    folder = tiny_tasks.write_tagged(tmp_path_factory.mktemp("tagged"))
    splits = ("train", "validation", "test")
    return workload(recipe({"files": {split: str(folder / f"{split}.jsonl") for split in splits}}))


def read(loaded: TokenClassification, longest: int = 24) -> Dataset:
    return loaded.read(tiny_runs.tokenizer(), Limits(longest, [32], frozenset()), ["validation"])["validation"]


def outputs(rows: Dataset, columns: tuple[int, ...] = STRAIGHT) -> np.ndarray:
    """Logits that say the labels, for a model that keeps its tags in `columns`; padding says the last tag."""
    found = np.zeros((len(rows), 24, 5), dtype=np.float32)
    found[:, :, 4] = 1.0
    for i, row in enumerate(rows):
        for j, label in enumerate(row["labels"]):
            if label >= 0:
                found[i, j, columns[label]] = 9.0
    return found


def answers(loaded: TokenClassification, rows: Dataset, order: np.ndarray, logits: np.ndarray) -> Tagged:
    return loaded.answers("validation", rows, order, EvalPrediction(predictions=logits, label_ids=None), STRAIGHT)


def test_perfect_logits_in_any_order_are_perfect_tags(loaded: TokenClassification) -> None:
    order = np.random.default_rng(0).permutation(9)
    rows = read(loaded).select(order)
    found = answers(loaded, rows, order, outputs(rows))
    assert loaded.score("validation", found) == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    assert loaded.interval("validation", found) == (1.0, 1.0)
    assert loaded.calibration_error("validation", found) == pytest.approx(
        1 - np.exp(9) / (np.exp(9) + 3 + np.e), abs=1e-3
    )


def test_tokens_stand_where_they_are_read_whichever_side_the_tokenizer_pads(loaded: TokenClassification) -> None:
    tokenizer = tiny_runs.tokenizer()
    tokenizer.padding_side = "left"
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in read(loaded)]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    batch = loaded.collator(tokenizer)(rows)
    for i, row in enumerate(rows):
        for name, values in row.items():
            assert batch[name][i, : len(values)].tolist() == values


def test_a_model_may_keep_its_tags_in_another_order(loaded: TokenClassification) -> None:
    turned = (4, 3, 2, 1, 0)
    plain = read(loaded)
    rows = loaded.in_model_order(plain, turned)
    for ours, theirs in zip(rows["labels"], plain["labels"], strict=True):
        assert ours == [label if label == -100 else 4 - label for label in theirs]
    found = EvalPrediction(predictions=outputs(plain, turned), label_ids=None)
    kept = loaded.answers("validation", rows, np.arange(9), found, turned)
    assert loaded.score("validation", kept)["f1"] == 1.0
    assert loaded.in_model_order(plain, STRAIGHT) is plain


def test_tokens_that_were_cut_off_count_as_outside(loaded: TokenClassification) -> None:
    """With 6 tokens a model sees 4 words of a sentence; what it does not see it gets wrong unless it is O."""
    rows = read(loaded, longest=6)
    found = answers(loaded, rows, np.arange(9), outputs(rows))
    sentences = loaded.data.splits["validation"]
    assert (~found.seen).sum() == sum(max(len(tokens) - 4, 0) for tokens in sentences["tokens"]) > 0
    right = sum(tag == 0 or place < 4 for tags in sentences["tags"] for place, tag in enumerate(tags))
    total = sum(map(len, sentences["tags"]))
    scores = loaded.score("validation", found)
    assert scores["accuracy"] == pytest.approx(right / total)
    assert scores["recall"] < 1.0
    _, text = loaded.predictions("validation", found)
    assert [len(line.split(" ")) for line in text.splitlines()] == [len(tokens) for tokens in sentences["tokens"]]


def test_agreement_is_over_tokens_that_both_saw(loaded: TokenClassification) -> None:
    one = Tagged(np.eye(5)[[0, 1, 2, 3]], np.asarray([True, True, True, False]))
    other = Tagged(np.eye(5)[[0, 2, 2, 4]], np.asarray([True, True, False, True]))
    assert loaded.agreement("validation", one, other) == 0.5


def test_old_tags_are_told_from_each_other_on_their_tokens(loaded: TokenClassification) -> None:
    """The higher of two logits, on tokens of these two tags that the model saw, whatever the others say."""
    tags = np.concatenate([np.asarray(row) for row in loaded.data.splits["validation"]["tags"]])
    generator = np.random.default_rng(1)
    found = Tagged(generator.normal(size=(len(tags), 5)), generator.random(len(tags)) < 0.8)
    found.logits[:, 4] = np.inf
    right = [
        (logits[2] > logits[1]) == (tag == 2)
        for logits, seen, tag in zip(found.logits, found.seen, tags, strict=True)
        if seen and tag in (1, 2)
    ]
    assert 0 < sum(right) < len(right)
    assert loaded.accuracy_among("validation", found, [1, 2]) == pytest.approx(sum(right) / len(right))
    unseen = found._replace(seen=np.zeros_like(found.seen))
    assert loaded.accuracy_among("validation", unseen, [1, 2]) is None


def test_the_lead_goes_over_sentences(loaded: TokenClassification) -> None:
    rows = read(loaded)
    right = answers(loaded, rows, np.arange(9), outputs(rows))
    silent = Tagged(np.tile(np.eye(5)[0], (len(right.seen), 1)), right.seen)
    assert loaded.score("validation", silent)["f1"] == 0.0
    assert loaded.lead("validation", right, silent).startswith("Student against control: f1 +1.000, 95 % [+1.000, ")
    assert "f1 +0.000, 95 % [+0.000, +0.000]" in loaded.lead("validation", right, right)


def test_nan_is_told_and_not_answered(loaded: TokenClassification) -> None:
    rows = read(loaded)
    logits = outputs(rows)
    logits[0, 1] = np.nan
    with pytest.raises(NonFiniteLoss, match=r"1 of \d+ tokens are NaN"):
        answers(loaded, rows, np.arange(9), logits)


def test_models_are_fitted_by_the_names_of_tags(loaded: TokenClassification) -> None:
    model = BertForTokenClassification(tiny_runs.config([name.lower() for name in reversed(tiny_tasks.TAGS)]))
    assert loaded.fit(model, "teacher") == (4, 3, 2, 1, 0)
    assert model.config.id2label[4] == "O"
    assert loaded.head()["num_labels"] == 5
    with pytest.raises(IncompatiblePair, match="the teacher has 2 labels"):
        loaded.fit(BertForTokenClassification(tiny_runs.config(("a", "b"))), "teacher")


def test_class_labels_of_the_hub_keep_their_names_and_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=list(tiny_tasks.TAGS)))})
    rows = [{"tokens": row["tokens"], "ner_tags": row["ner_tags"]} for row in tiny_tasks.tagged_rows(8)]
    splits = Dataset.from_list(rows, features=features)
    monkeypatch.setattr(hub, "download", lambda *names: (DatasetDict(train=splits, validation=splits), None))
    made = recipe({"hub": {"id": "me/names"}, "token_classification": {"tags_column": "ner_tags"}})
    found = workload(made)
    assert found.data.tag_names == tiny_tasks.TAGS  # a teacher with LABEL_0, LABEL_1 ... was trained in that order
    names = [[found.data.tag_names[tag] for tag in tags] for tags in found.data.splits["train"]["tags"]]
    assert names == [[tiny_tasks.TAGS[tag] for tag in row["ner_tags"]] for row in rows]


def test_a_tokenizer_that_joins_tokens_is_loaded_with_blanks_between_them(
    loaded: TokenClassification, tmp_path: Path
) -> None:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5, "Ġ": 6}
    RobertaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    made = recipe({"files": {"train": "x"}}, student={"model": str(tmp_path)})
    tokenizer = models.load_tokenizer_of(made, loaded)
    assert tokenizer(["a", "a"], is_split_into_words=True)["input_ids"] == [0, 6, 5, 6, 5, 2]
    tokenizer.save_pretrained(tmp_path / "student")
    again = models.plain_tokenizer(tmp_path / "student", "student")
    assert again(["a", "a"], is_split_into_words=True)["input_ids"] == [0, 6, 5, 6, 5, 2]


def test_the_collator_pads_labels_and_special_tokens(loaded: TokenClassification) -> None:
    rows = read(loaded)
    names = ("input_ids", "attention_mask", "special_tokens_mask", "labels")
    batch = loaded.collator(tiny_runs.tokenizer())([{name: rows[i][name] for name in names} for i in (0, 4)])
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert bool((batch["labels"][padding] == -100).all())
    assert bool((batch["special_tokens_mask"][padding] == 1).all())
    assert batch["labels"].dtype == torch.int64
