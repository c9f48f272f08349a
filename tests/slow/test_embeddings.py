"""Whole runs of sentence encoders, and what sentence-transformers makes of their students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.evaluation.latency import Latency
from hf_distill.hub.folder import select
from hf_distill.hub.front_matter import metadata_of
from hf_distill.runs import measuring, results, run
from hf_distill.sentence_modules import read_modules
from hf_distill.sentences import SentenceEmbedding, give
from tests import tiny_runs, tiny_sentences

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_pictures_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    tiny_sentences.save_encoder(folder / "teacher", pooling="max", normalize=True, dropout=0.0)
    return tiny_sentences.write_pairs(folder)


def vectors_by_hand(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors of the largest states, one text at a time."""
    model, tokenizer = tiny_runs.BertModel.from_pretrained(folder).eval(), tiny_runs.tokenizer()
    found = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
            vector = model(**ids).last_hidden_state[0].amax(0)
            found.append((vector / vector.norm()).numpy())
    return np.stack(found)


def spearman(folder: Path, pairs: list[dict[str, Any]]) -> float:
    one, two = (vectors_by_hand(folder, [pair[name] for pair in pairs]) for name in ("one", "two"))
    return float(stats.spearmanr((one * two).sum(1), [pair["gold"] for pair in pairs])[0])


def test_a_student_is_left_as_sentence_transformers_reads_it(home: Path, tmp_path: Path) -> None:
    """Teacher, student and the student at its start are judged by their own vectors, cut, pooled and scaled here."""
    out = tmp_path / "out"
    result = run(tiny_sentences.recipe(home), out)
    modules = read_modules(str(out), "student")
    assert modules is not None
    assert modules.embedding == SentenceEmbedding("max", True, max_length=16)
    pairs = [json.loads(line) for line in (home / "validation.jsonl").read_text().splitlines()]
    assert result.run("student").metrics["spearmanr"] == pytest.approx(spearman(out, pairs), abs=1e-6)
    assert result.run("teacher").metrics["spearmanr"] == pytest.approx(spearman(home / "teacher", pairs), abs=1e-6)
    start = tiny_runs.BertModel.from_pretrained(home / "teacher", num_hidden_layers=1)
    start.encoder.layer[0].load_state_dict(
        tiny_runs.BertModel.from_pretrained(home / "teacher").encoder.layer[1].state_dict()
    )
    start.save_pretrained(tmp_path / "start")
    assert result.run("control").metrics["spearmanr"] == pytest.approx(spearman(tmp_path / "start", pairs), abs=1e-6)
    assert any("at its start, not trained" in note for note in result.notes)
    assert not (out / "stages" / "control").exists()
    told = metadata_of((out / "README.md").read_text())
    assert (told["library_name"], told["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "SentenceTransformer('.')" in (out / "README.md").read_text()
    assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"} <= select(out).keys()
    again = run(tiny_sentences.recipe(home), tmp_path / "out", train=False)
    assert again.metrics["eval_spearmanr"] == pytest.approx(result.metrics["eval_spearmanr"], abs=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_len_tokens"])
def test_the_other_library_gives_the_same_vectors(tmp_path: Path, pooling: str) -> None:
    """Of the teacher as that library's own modules, and of the student that a run leaves: to 1e-6."""
    from sentence_transformers import SentenceTransformer

    tiny_sentences.save_encoder(tmp_path / "teacher", pooling=pooling, normalize=pooling != "cls")
    tiny_sentences.write_pairs(tmp_path)
    out = tmp_path / "out"
    run(tiny_sentences.recipe(tmp_path, control=False), out, evaluate=False)
    texts = [tiny_sentences.text(i, i % 3) for i in range(20)]
    for folder in (tmp_path / "teacher", out):
        theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=7)
        np.testing.assert_allclose(ours(folder, texts), theirs, atol=1e-6)


def test_a_student_keeps_dense_layers_from_the_first_stage_to_the_other_library(home: Path, tmp_path: Path) -> None:
    """Two stages, and a teacher whose vectors another library's dense layer makes: nothing of it changes, and the
    student's vectors in that library are those that were compared with the teacher's."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense

    tiny_sentences.write_pairs(tmp_path)
    whole = SentenceTransformer(str(tiny_sentences.save_encoder(tmp_path / "plain", dropout=0.0)), device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole.insert(2, Dense(16, 6))
    whole.save(str(tmp_path / "teacher"))
    tiny_runs.tokenizer().save_pretrained(tmp_path / "teacher")
    recipe = tiny_sentences.recipe(tmp_path, control=False)
    recipe["stages"] = [recipe["stages"][0] | {"name": name} for name in ("first", "second")]
    out = tmp_path / "out"
    result = run(recipe, out)
    dense = [load_file(folder / "2_Dense" / "model.safetensors") for folder in (tmp_path / "teacher", out)]
    assert dense[0].keys() == dense[1].keys() == {"linear.weight", "linear.bias"}
    assert all(torch.equal(dense[0][name], dense[1][name]) for name in dense[0])
    assert {"2_Dense/config.json", "2_Dense/model.safetensors"} <= select(out).keys()
    assert not any("dense" in name and "sentence" in name for name in load_file(out / "model.safetensors"))
    pairs = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    student = SentenceTransformer(str(out), device="cpu")
    one, two = (student.encode([pair[name] for pair in pairs]) for name in ("one", "two"))
    assert one.shape[1] == 6
    found = stats.spearmanr((one * two).sum(1), [pair["gold"] for pair in pairs])[0]
    assert result.run("student").metrics["spearmanr"] == pytest.approx(found, abs=1e-6)
    again = run(recipe, out, train=False)
    assert again.metrics["eval_spearmanr"] == pytest.approx(found, abs=1e-6)


def ours(folder: Path, texts: list[str]) -> np.ndarray:
    """The vectors as an evaluation gives them."""
    model, tokenizer = tiny_runs.BertModel.from_pretrained(folder).eval(), tiny_runs.tokenizer()
    modules = read_modules(str(folder), "model")
    assert modules is not None
    give(model, modules.embedding)
    capture = Capture(Anatomy.of(model), [Signal("sentence")], role="model")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        return capture(dict(batch))[1].sentence.numpy()


def test_a_student_of_written_down_vectors_is_that_of_the_teacher_itself(home: Path, tmp_path: Path) -> None:
    """A narrower student, whose target is the teacher's principal components, from its cache and without."""
    small = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    tiny_sentences.write_pairs(tmp_path, train=40)
    cache = {"model": str(home / "teacher"), "cache": {"codec": "float32"}}
    students = []
    for name, teacher in (("live", {"model": str(home / "teacher")}), ("cached", cache)):
        recipe = tiny_sentences.recipe(tmp_path, teacher=teacher, student={"from_shape": small}, control=False)
        run(recipe, tmp_path / name, evaluate=False)
        students.append(tiny_runs.BertModel.from_pretrained(tmp_path / name).state_dict())
    for name, weights in students[0].items():
        torch.testing.assert_close(students[1][name], weights, atol=1e-5, rtol=1e-4)
    written = (tmp_path / "cached" / "stages" / "teacher-cache").rglob("*.safetensors")
    assert sum(path.stat().st_size for path in written) < 40 * (16 * 4 + 100) + 4000


@pytest.mark.parametrize(
    ("objective", "rows", "columns"),
    [
        ({"multilingual_mse": {}}, "parallel", ["text", "positive"]),
        ({"margin_mse": {}}, "triplets", ["text", "positive", "negative"]),
        ({"margin_mse": {"margins": "column"}}, "triplets", ["text", "positive", "negative"]),
        ({"similarity_distribution": {"pool": "sentence"}}, "sentences", ["text", "positive"]),
        ({"embedding_cosine": {}}, "sentences", ["text", "negative"]),
    ],
)
def test_every_kind_of_rows_trains(
    home: Path, tmp_path: Path, objective: dict[str, Any], rows: str, columns: list[str]
) -> None:
    """The value falls from the first step to the last, on the same few rows."""
    train = [{"text": tiny_sentences.text(i), "positive": tiny_sentences.text(i, 1)} for i in range(8)]
    train = [row | {"negative": tiny_sentences.text(20 + i), "margin": i / 8} for i, row in enumerate(train)]
    tiny_sentences.write_pairs(tmp_path)
    tiny_runs.write_jsonl(tmp_path / "train.jsonl", train)
    recipe = tiny_sentences.recipe(tmp_path, teacher={"model": str(home / "teacher")}, control=False)
    settings = {"rows": rows, "text_columns": columns, "margin_column": "margin" if rows == "triplets" else None}
    recipe["data"]["embeddings"] |= settings
    recipe["stages"][0]["objectives"] = [objective]
    recipe["stages"][0]["arguments"] |= {"max_steps": 12, "logging_steps": 1, "learning_rate": 3e-3}
    run(recipe, tmp_path / "out", evaluate=False)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
