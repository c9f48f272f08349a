"""Recipes with a cache of their teacher: the same students, and no teacher in memory while they train."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.commands import cache_teacher as command
from hf_distill.commands import embeddings, glue
from hf_distill.errors import CacheMismatch, IncompatiblePair, RecipeError
from hf_distill.hub.record import Record
from hf_distill.inspection.explanation import explain
from hf_distill.recipe import Recipe
from hf_distill.runs import cache_teacher, caching, run
from hf_distill.runs.stages import StageTrainer
from hf_distill.teachers import Cached
from tests import tiny_runs, tiny_sentences
from tests.test_causal_text import recipe as causal


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` and `sst2`."""
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher", layers=3, dropout=0.0)
    tiny_runs.write_sst2(folder / "sst2", train=24)
    return folder


def recipe(home: Path, cache: dict[str, Any] | None, *names: str, **more: Any) -> dict[str, Any]:
    arguments = {
        "max_steps": 3, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1, "use_cpu": True,
        "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no",
    }  # fmt: skip
    objectives = [{"soft_targets": {}}, {"labels": {}}, {"hidden_mse": {"layer_map": "final"}}]
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher"), **({} if cache is None else {"cache": cache})},
        "student": {"from_layers": {"layers": 1}},
        "stages": [
            {"name": name, "objectives": objectives[: 3 - i], "arguments": arguments} for i, name in enumerate(names)
        ],
        **more,
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_stages_learn_the_same_from_a_cache(home: Path, tmp_path: Path) -> None:
    run(recipe(home, None, "first", "second", control=True), tmp_path / "plain", evaluate=False)
    shared = {"folder": str(tmp_path / "cache"), "codec": "float32"}
    run(recipe(home, shared, "first", "second", control=True), tmp_path / "cached", evaluate=False)
    plain, cached = weights(tmp_path / "plain"), weights(tmp_path / "cached")
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=0, atol=2e-6)
    control = (weights(tmp_path / name / "stages" / "control") for name in ("plain", "cached"))
    assert all(torch.equal(*pair) for pair in zip(*(each.values() for each in control), strict=True))
    held = Cached(tmp_path / "cache", max_length=16)
    assert {each.name for each in held.facts.signals} == {"logits", "hidden[3]"}  # of both stages
    told = Record.read(tmp_path / "cached").teacher_cache
    assert told is not None
    assert (told.fingerprint, told.codecs["hidden[3]"]) == (held.facts.digest, "float32")
    assert told.fingerprint in (tmp_path / "cached" / "README.md").read_text(encoding="utf-8")
    assert Record.read(tmp_path / "plain").teacher_cache is None


def test_no_teacher_is_in_memory_while_a_student_trains(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []
    load, train = caching._frozen, StageTrainer.train

    def loading(setup: Any) -> Any:
        found = load(setup)
        assert found is not None
        loaded.append(weakref.ref(found.model))
        return found

    def training(self: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        gc.collect()
        alive.append(sum(each() is not None for each in loaded))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(caching, "_frozen", loading)
    monkeypatch.setattr(StageTrainer, "train", training)
    result = run(recipe(home, {}, "first", "second"), tmp_path / "out")
    assert (len(loaded), alive) == (1, [0, 0])
    assert {summary.name for summary in result.runs} == {"teacher", "student"}  # it comes back to be compared
    assert (tmp_path / "out" / "stages" / "teacher-cache" / "cache.json").is_file()


def test_a_second_run_shares_the_cache_and_runs_no_teacher(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"folder": str(tmp_path / "cache")}
    place, facts = cache_teacher(recipe(home, shared, "first"), tmp_path / "unused")
    assert (place, sum(shard.rows for shard in facts.shards)) == (tmp_path / "cache", 24)
    before = (place / "cache.json").stat().st_mtime_ns
    run(recipe(home, shared, "first"), tmp_path / "out", evaluate=False)
    assert (place / "cache.json").stat().st_mtime_ns == before
    with pytest.raises(CacheMismatch, match="max_length 16, here 12"):
        run(recipe(home, shared, "first", max_length=12), tmp_path / "other", evaluate=False)


def test_a_teacher_that_is_trained_first(home: Path, tmp_path: Path) -> None:
    made = recipe(home, {"codec": "float32"}, "first")
    made["teacher"]["fine_tune"] = {"arguments": made["stages"][0]["arguments"]}
    with pytest.raises(ValueError, match=r"teacher\.fine_tune"):
        cache_teacher(made, tmp_path / "cached")
    run(made, tmp_path / "cached", evaluate=False)
    del made["teacher"]["cache"]
    run(made, tmp_path / "plain", evaluate=False)
    cached = weights(tmp_path / "cached")
    for name, tensor in weights(tmp_path / "plain").items():
        torch.testing.assert_close(cached[name], tensor, rtol=0, atol=2e-6)


def test_causal_text(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.recipes.tiny_recipes import gpt2_tokenizer

    torch.manual_seed(1)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=1200, **sizes)).save_pretrained(tmp_path / "teacher")
    gpt2_tokenizer().save_pretrained(tmp_path / "teacher")
    tiny_runs.write_text(tmp_path / "train.txt", 60)
    tiny_runs.write_text(tmp_path / "dev.txt", 17, start=500)
    made = causal(tmp_path)
    run(made, tmp_path / "plain", evaluate=False)
    made["teacher"]["cache"] = {"codec": "float32"}
    run(made, tmp_path / "cached", evaluate=False)
    told = Record.read(tmp_path / "cached").teacher_cache
    assert told is not None
    assert told.codecs == {"final": "float32"}
    cached = weights(tmp_path / "cached")
    for name, tensor in weights(tmp_path / "plain").items():
        torch.testing.assert_close(cached[name], tensor, rtol=0, atol=1e-5)
    made["teacher"]["cache"] = {"codec": "top_k", "settings": {"k": 8}}
    with pytest.raises(IncompatiblePair, match=r"temperature is 2.*cache of its largest"):
        run(made, tmp_path / "largest", evaluate=False)
    assert not (tmp_path / "largest").exists()


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"codec": "float61"}, "there is no codec 'float61'"),
        ({"codec": "top_k", "settings": {"k": 0}}, "k is 0"),
        ({"codec": "top_k", "settings": {"kk": 3}}, "has no setting 'kk'"),
        ({"settings": {"k": 3}}, "none is named"),
        ({"dir": "x"}, "unknown key"),
    ],
)
def test_what_a_recipe_may_not_say(home: Path, cache: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe(home, cache, "first"))


PRECISIONS = [[{"bf16": True}, {}], [{}, {"fp16": True}], [{"bf16": True}, {"fp16": True}]]


@pytest.mark.parametrize("given", PRECISIONS)
def test_stages_of_two_precisions_do_not_share_a_cache(home: Path, given: list[dict[str, bool]]) -> None:
    def of(*precisions: dict[str, bool], cache: dict[str, Any] | None = None) -> dict[str, Any]:
        made = recipe(home, cache, "first", "second")
        for stage, precision in zip(made["stages"], precisions, strict=True):
            stage["arguments"] = {**stage["arguments"], **precision}
        return made

    with pytest.raises(RecipeError, match=r"stage 'second', and stage 'first' says .* Give teacher\.dtype"):
        Recipe.from_dict(of(*given, cache={}))
    Recipe.from_dict(of(*given))
    Recipe.from_dict(of(given[0], given[0], cache={}))
    with_dtype = of(*given, cache={})
    with_dtype["teacher"]["dtype"] = "float32"
    Recipe.from_dict(with_dtype)


@pytest.mark.parametrize(
    ("text", "message"),
    [({"task": "masked_lm"}, "hidden anew in every epoch"), ({"streaming": True}, "a stream has none")],
)
def test_rows_that_change_are_refused_in_the_recipe(tmp_path: Path, text: dict[str, Any], message: str) -> None:
    made = causal(tmp_path, **text)
    made["teacher"]["cache"] = {}
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(made)


# ---- a folder alone ----


def test_a_teacher_that_is_a_folder_alone(home: Path, tmp_path: Path) -> None:
    student = tiny_runs.save_teacher(tmp_path / "student", layers=1, dropout=0.0, seed=2)
    tiny_runs.tokenizer().save_pretrained(student)
    own = {"student": {"model": str(student)}}
    shared = {"folder": str(tmp_path / "cache"), "codec": "float32"}
    run(recipe(home, shared, "first", **own), tmp_path / "cached", evaluate=False)
    alone = recipe(home, None, "first", **own) | {"teacher": {"cached": {"folder": str(tmp_path / "cache")}}}
    run(alone, tmp_path / "alone")
    assert "teacher_eval_accuracy" not in json.loads((tmp_path / "alone" / "all_results.json").read_text())
    ours, theirs = weights(tmp_path / "alone"), weights(tmp_path / "cached")
    assert all(torch.equal(ours[name], each) for name, each in theirs.items())
    record = Record.read(tmp_path / "alone")
    assert (record.teacher, record.teacher_cache) == (None, Record.read(tmp_path / "cached").teacher_cache)
    explained = explain(Recipe.from_dict(alone))
    assert "a folder that holds what it showed" in explained
    assert "left out" not in explained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"from_layers": {"layers": 1}}}, r"from_layers.*on the disk without its weights; give student"),
        ({"teacher": {"cached": {"folder": "x"}, "cache": {}}}, r"teacher\.cache.*does not go with cached"),
        ({"teacher": {"cached": {"folder": "x"}, "model": "y"}}, "give exactly one of"),
        ({"teacher": {"cached": {}}}, "folder"),
    ],
)
def test_what_does_not_go_with_a_folder_alone(home: Path, changes: dict[str, Any], message: str) -> None:
    base = recipe(home, None, "first") | {"student": {"model": "s"}, "teacher": {"cached": {"folder": "x"}}}
    Recipe.from_dict(base)
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(base | changes)


# ---- the command line ----


def flags(home: Path, out: Path, *more: str) -> list[str]:
    return [
        "--task_name", "sst2", "--dataset_dir", str(home / "sst2"), "--teacher_name_or_path", str(home / "teacher"),
        "--student_layers", "1", "--output_dir", str(out), "--use_cpu", "--disable_tqdm", "true", "--max_steps", "2",
        "--do_train", *more,
    ]  # fmt: skip


def test_caching_and_training_by_the_same_flags(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = ["--cache_teacher", str(tmp_path / "cache"), "--cache_codec", "top_k", "--cache_settings", '{"k": 2}']
    assert command.main(["glue", *flags(home, tmp_path / "out", *cached)]) == 0
    assert f"{tmp_path / 'cache'}: 24 rows, fingerprint" in capsys.readouterr().out
    assert glue.main(flags(home, tmp_path / "out", *cached)) == 0
    identity = json.loads((tmp_path / "out" / "stages" / "run.json").read_text())
    assert identity["recipe"]["teacher"]["cache"] == {
        "folder": str(tmp_path / "cache"), "codec": "top_k", "settings": {"k": 2},
    }  # fmt: skip
    assert glue.main(flags(home, tmp_path / "own", "--cache_teacher")) == 0
    assert (tmp_path / "own" / "stages" / "teacher-cache" / "cache.json").is_file()


def test_vectors_of_sentences_are_cached_by_the_flags_that_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sentences.save_encoder(tmp_path / "teacher", layers=2)
    tiny_sentences.write_pairs(tmp_path)
    words = [
        "--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl"),
        "--text_columns", "text", "--pair_columns", "one,two", "--score_column", "gold", "--max_seq_length", "16",
        "--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--use_cpu", "--disable_tqdm",
        "true", "--max_steps", "2", "--do_train", "--output_dir", str(tmp_path / "out"),
        "--cache_teacher", str(tmp_path / "cache"),
    ]  # fmt: skip
    assert command.main(["embeddings", *words]) == 0
    assert f"{tmp_path / 'cache'}: 24 rows, fingerprint" in capsys.readouterr().out
    before = (tmp_path / "cache" / "cache.json").read_bytes()
    assert embeddings.main(words) == 0
    assert (tmp_path / "cache" / "cache.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["glue"], "no cache of its teacher; give teacher.cache, or --cache_teacher FOLDER"),
        (["glue", "--cache_codec", "float16"], "--cache_codec is given, and the recipe has no cache"),
        (["glue", "--cache_teacher", "--cache_settings", "3"], "no mapping in JSON"),
        (["glu"], "'glu' is no kind of data, did you mean 'glue'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([words[0], *flags(home, tmp_path / "out"), *words[1:]]) == 2
    assert message in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    assert "cache (glue | qa | ner | mlm | lm | embeddings | translation | served) [flags]" in capsys.readouterr().out
