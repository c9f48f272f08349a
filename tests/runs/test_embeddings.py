"""Runs of sentence encoders: from a teacher's folder to a student that sentence-transformers knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr

from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.evaluation.latency import Latency
from hf_distill.objectives import MarginMSE
from hf_distill.recipe import Recipe
from hf_distill.runs import measuring, results, run
from hf_distill.runs.workload import Limits
from hf_distill.runs.workloads import load_workload, splits
from hf_distill.sentences import SentenceEmbedding
from tests import tiny_runs, tiny_sentences


@pytest.fixture(autouse=True)
def _no_pictures_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measuring, "measure_latency", lambda *args, **kwargs: Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    )
    monkeypatch.setattr(results, "write_report", lambda *args: [])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    tiny_sentences.save_encoder(folder / "teacher", pooling="max", normalize=True, dropout=0.0)
    return tiny_sentences.write_pairs(folder)


def loaded(home: Path, **settings: Any) -> Any:
    recipe = tiny_sentences.recipe(home)
    recipe["data"]["embeddings"] |= settings
    return load_workload(Recipe.from_dict(recipe))


def test_without_scores_the_second_text_is_searched_by_the_first(tmp_path: Path) -> None:
    """A query may have several texts, and a text several queries; each is embedded once."""
    rows = [("a", "x"), ("a", "y"), ("b", "y"), ("c", "z"), ("a", "x")]
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", [{"text": "a"}])
    tiny_runs.write_jsonl(tmp_path / "validation.jsonl", [{"one": one, "two": two} for one, two in rows])
    workload = loaded(tmp_path, score_column=None)
    pairs = workload.pairs("validation")
    assert pairs.texts == ["a", "x", "y", "b", "c", "z"]
    at = {"a": (1, 0), "b": (0, 1), "c": (-1, 0), "x": (1, 0.1), "y": (0.1, 1), "z": (1, 0.2)}
    vectors = np.asarray([at[text] for text in pairs.texts], dtype=np.float32)
    found = workload.score("validation", vectors)
    # a: x, z, y and x, y are right; b: y first; c: y, z, x and z is right
    gains = 1 / np.log2([2, 3, 4])
    assert found == pytest.approx({
        "ndcg_at_10": ((gains[0] + gains[2]) / (gains[0] + gains[1]) + 1 + gains[1]) / 3,
        "mrr_at_10": (1 + 1 + 1 / 2) / 3,
        "recall_at_1": (1 / 2 + 1 + 0) / 3,
        "recall_at_10": 1.0,
    })  # fmt: skip
    assert workload.evidence("validation", vectors).value() == pytest.approx(found["ndcg_at_10"])
    turned = vectors.copy()
    turned[0] = (0, 1)
    assert workload.agreement("validation", turned, vectors) == pytest.approx(2 / 3)


def test_validation_is_cut_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of the Hub says by itself which splits it has; training rows need the pairs where these are cut."""
    pairs = Dataset.from_dict({"one": ["a", "b", "c", "d"], "two": ["e", "f", "g", "h"], "gold": [1.0, 2.0, 3.0, 4.0]})
    texts = Dataset.from_dict({"text": ["a", "b"], "one": [None, None], "two": [None, None], "gold": [None, None]})
    recipe = tiny_sentences.recipe(Path("x"))
    settings = recipe["data"]["embeddings"]

    def sizes(found: dict[str, Dataset], **changes: Any) -> Any:
        data = {"hub": {"id": "me/texts"}, "split": {"validation": 0.25}, "embeddings": {**settings, **changes}}
        monkeypatch.setattr(splits, "load_splits", lambda *args, **kwargs: (found, None))
        return load_workload(Recipe.from_dict({**recipe, "data": data})).sizes

    assert sizes({"train": texts, "validation": pairs}) == {"train": 2, "validation": 4}
    assert sizes({"train": texts.select_columns(["text"]), "validation": pairs}) == {"train": 2, "validation": 4}
    assert sizes({"train": pairs}, text_columns=["one", "two"])["validation"] == 1
    with pytest.raises(DataError, match="no column 'god', and validation is cut from these rows"):
        sizes({"train": pairs}, text_columns=["one", "two"], score_column="god")


def test_training_rows_are_what_their_kind_says(tmp_path: Path) -> None:
    row = {"text": "good film", "other": "bad film", "third": "cold plot", "margin": 2.5}
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", [row, {**row, "other": "good film"}])
    tiny_runs.write_jsonl(tmp_path / "validation.jsonl", [{"one": "good", "two": "bad", "gold": 1}])
    tokenizer = tiny_runs.tokenizer()

    def read(*names: str, **settings: Any) -> Any:
        workload = loaded(tmp_path, **settings)
        return workload.read(tokenizer, Limits(16, [], frozenset({"input_ids", *names})), ["train"])["train"]

    three = {"rows": "triplets", "text_columns": ["text", "other", "third"], "margin_column": "margin"}
    texts = [tokenizer(text)["input_ids"] for text in ("good film", "bad film", "cold plot")]
    assert read(text_columns=["text", "other", "third"])["input_ids"][:] == texts
    whole = read("positive_input_ids", "negative_input_ids", "margin", **three)
    assert {name: whole[0][name] for name in ("input_ids", "positive_input_ids", "negative_input_ids", "margin")} == {
        "input_ids": texts[0], "positive_input_ids": texts[1], "negative_input_ids": texts[2], "margin": 2.5,
    }  # fmt: skip
    assert "positive_input_ids" not in read(**three).column_names
    pair = read("translation_input_ids", rows="parallel", text_columns=["text", "other"])
    assert pair["translation_input_ids"][:] == [texts[1], texts[0]]
    with pytest.raises(DataError, match=r"reads the text 'translation' beside each row, and the rows are sentences"):
        read("translation_input_ids")
    with pytest.raises(DataError, match=r"no column has them. Name it as data.embeddings.margin_column"):
        read("margin", **(three | {"margin_column": None}))


def test_an_encoder_of_which_no_pooling_is_known_is_refused(home: Path, tmp_path: Path) -> None:
    tiny_runs.save_base(tmp_path / "bare")
    recipe = tiny_sentences.recipe(home, teacher={"model": str(tmp_path / "bare")})
    with pytest.raises(IncompatiblePair, match=r"BertModel .* how its sentence vectors are pooled is not known"):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_teacher_and_student_must_read_the_same_tokens(home: Path, tmp_path: Path) -> None:
    tiny_sentences.save_encoder(tmp_path / "other")
    words = list(tiny_runs.WORDS)
    words[-1], words[-2] = words[-2], words[-1]
    tiny_runs.tokenizer(words).save_pretrained(tmp_path / "other")
    recipe = tiny_sentences.recipe(home, student={"model": str(tmp_path / "other")}, control=False)
    with pytest.raises(
        DistillationError, match=r"tokenizers differ.*A sentence encoder does not learn from one of another"
    ):
        run(recipe, tmp_path / "out")


def test_the_recipe_may_pool_the_student_otherwise(home: Path) -> None:
    workload = loaded(home, pooling="cls", normalize=False)
    model = tiny_runs.BertModel.from_pretrained(home / "teacher")
    workload.fit(model, "student")
    assert SentenceEmbedding.of(model.config) == SentenceEmbedding("cls", False, max_length=16)
    teacher = tiny_runs.BertModel.from_pretrained(home / "teacher")
    workload.fit(teacher, "teacher")
    assert SentenceEmbedding.of(teacher.config) == SentenceEmbedding("max", True)


def published(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_vectors_are_judged_and_published_by_the_product_that_they_were_made_for(tmp_path: Path) -> None:
    tiny_sentences.save_encoder(tmp_path / "teacher", normalize=False)
    told = tmp_path / "teacher" / "config_sentence_transformers.json"
    told.write_text(json.dumps({"similarity_fn_name": "dot"}), encoding="utf-8")
    result = run(tiny_sentences.recipe(tiny_sentences.write_pairs(tmp_path)), tmp_path / "out")
    assert published(tmp_path / "out", "config_sentence_transformers.json")["similarity_fn_name"] == "dot"

    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizer = tiny_runs.tokenizer()
    for role, folder in (("teacher", "teacher"), ("student", "out")):
        model = tiny_runs.BertModel.from_pretrained(tmp_path / folder).eval()

        def vector(text: str, model: Any = model) -> torch.Tensor:
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
            with torch.no_grad():
                return model(**inputs).last_hidden_state[0].mean(0)

        products = [float(vector(row["one"]) @ vector(row["two"])) for row in rows]
        expected = spearmanr(products, [row["gold"] for row in rows]).statistic
        assert result.run(role).metrics["spearmanr"] == pytest.approx(expected, abs=1e-6)


def test_the_recipe_may_compare_vectors_otherwise(home: Path) -> None:
    assert loaded(home).similarity == "cosine"
    workload = loaded(home, similarity="dot", normalize=False)
    for role in ("teacher", "student"):
        model = tiny_runs.BertModel.from_pretrained(home / "teacher")
        workload.fit(model, role)
    assert workload.similarity == "dot"
    assert SentenceEmbedding.of(model.config) == SentenceEmbedding("max", False, max_length=16, similarity="dot")


@pytest.mark.parametrize("limited", ["tokenizer", "teacher"])
def test_texts_are_cut_where_the_shortest_reader_ends_and_the_student_says_so(tmp_path: Path, limited: str) -> None:
    tiny_sentences.save_encoder(tmp_path / "teacher")
    if limited == "tokenizer":
        tokenizer = tiny_runs.tokenizer()
        tokenizer.model_max_length = 5
        tokenizer.save_pretrained(tmp_path / "teacher")
    else:
        told = tmp_path / "teacher" / "sentence_bert_config.json"
        told.write_text(json.dumps({"max_seq_length": 5}), encoding="utf-8")
    run(tiny_sentences.recipe(tiny_sentences.write_pairs(tmp_path), control=False), tmp_path / "out")
    assert published(tmp_path / "out", "sentence_bert_config.json")["max_seq_length"] == 5


def test_a_student_alone_is_evaluated_as_it_was_published(tmp_path: Path) -> None:
    """Cut and compared as its teacher is, without the teacher."""
    tiny_sentences.save_encoder(tmp_path / "teacher", normalize=False)
    for name, told in (
        ("sentence_bert_config.json", {"max_seq_length": 5}),
        ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}),
    ):
        (tmp_path / "teacher" / name).write_text(json.dumps(told), encoding="utf-8")
    recipe = tiny_sentences.recipe(tiny_sentences.write_pairs(tmp_path), control=False)
    result = run(recipe, tmp_path / "out")
    again = run(recipe, tmp_path / "out", train=False)
    for name in ("spearmanr", "pearson"):
        assert again.metrics[f"eval_{name}"] == pytest.approx(result.run("student").metrics[name], abs=1e-6)


def test_the_recipe_of_margins_learns_what_it_is_judged_by() -> None:
    recipe = Recipe.load("embeddings/margin_mse")
    assert recipe.data is not None
    assert recipe.data.embeddings is not None
    (learned,) = (term.objective for term in recipe.stages[0].terms())
    assert isinstance(learned, MarginMSE)
    assert (recipe.data.embeddings.similarity, recipe.data.embeddings.normalize) == (learned.similarity, False)
