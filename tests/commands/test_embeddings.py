"""The command of sentence encoders: from flags to a recipe, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_distill.commands import doctor, embeddings, explain
from hf_distill.commands.flags import make_parser, parse
from hf_distill.commands.overrides import recipe_of
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from tests import tiny_runs, tiny_sentences

PLAIN = ("--train_file", "a.jsonl", "--teacher_name_or_path", "t", "--student_layers", "2")


def asked(*words: str) -> dict[str, Any]:
    script = embeddings.SCRIPT
    flags = parse(words, make_parser(script.name, script.description, script.flags))
    return recipe_of(flags, script)[0].to_dict()


def test_flags_alone_are_the_error_of_vectors_with_the_start_as_control() -> None:
    recipe = asked(*PLAIN, "--text_columns", "a,b", "--score_column", "gold", "--normalize", "false")
    settings = recipe["data"]["embeddings"]
    assert settings == {"rows": "sentences", "text_columns": ["a", "b"], "score_column": "gold", "normalize": False}
    assert recipe["control"] is True
    assert [*recipe["stages"][0]["objectives"][0]] == ["embedding_mse", "weight"]
    assert recipe["data"]["split"]["validation"] == 0.1


def test_flags_on_top_of_a_recipe() -> None:
    recipe = asked("--recipe", "embeddings/margin_mse", "--pooling", "cls", "--margin_column", "m")
    settings = recipe["data"]["embeddings"]
    assert (settings["rows"], settings["pooling"], settings["margin_column"]) == ("triplets", "cls", "m")
    assert settings["text_columns"] == ["query", "positive", "negative"]
    with pytest.raises(RecipeError, match=r"--rows.*goes with rows: triplets|text_columns.*has 3 columns"):
        asked("--recipe", "embeddings/margin_mse", "--rows", "parallel")


def test_pairs_that_are_named_have_the_scores_that_are_named_with_them() -> None:
    cosine = ("--recipe", "embeddings/cosine", "--pair_columns", "question,passage")
    for rows in ((), ("--train_file", "a.jsonl", "--validation_file", "b.jsonl")):
        assert "score_column" not in asked(*cosine, *rows)["data"]["embeddings"]
        assert asked(*cosine, *rows, "--score_column", "gold")["data"]["embeddings"]["score_column"] == "gold"
        assert asked(*cosine[:2], *rows)["data"]["embeddings"]["score_column"] == "label"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "triplets", "text_columns": ["a", "b"]}, r"has 2 columns; rows: triplets are 3 texts each"),
        ({"rows": "parallel", "text_columns": ["a"]}, r"has 1 columns; rows: parallel are 2 texts each"),
        ({"text_columns": ["a"]}, r"pair_columns.*is missing: an encoder is judged by pairs"),
        ({"text_columns": ["a", "a"]}, r"'a' is given twice"),
        ({"text_columns": ["a", "b"], "margin_column": "m"}, r"margin_column.*goes with rows: triplets"),
        ({"text_columns": ["a", "b"], "pooling": "median"}, r"pooling"),
        ({"text_columns": ["a", "b"], "normalise": True}, r"normalise.*normalize"),
    ],
)
def test_rows_and_columns_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    recipe = tiny_sentences.recipe(Path("x"))
    recipe["data"]["embeddings"] = settings
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe)


def test_a_teacher_is_not_trained_on_labels_first() -> None:
    recipe = tiny_sentences.recipe(Path("x"), teacher={"model": "t", "fine_tune": {"arguments": {}}})
    with pytest.raises(RecipeError, match=r"fine_tune.*trains on labels, and sentences have none"):
        Recipe.from_dict(recipe)


def test_objectives_of_labels_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sentences.save_encoder(tmp_path / "teacher")
    tiny_sentences.write_pairs(tmp_path)
    recipe = tiny_sentences.recipe(tmp_path)
    recipe["stages"][0]["objectives"] = [{"soft_targets": {}}]
    with pytest.raises(RecipeError):
        Recipe.from_dict(recipe).override({"data.embeddings.rows": "words"})
    path = tiny_runs.write_jsonl(tmp_path / "recipe.yaml", [recipe])
    assert embeddings.main(["--recipe", str(path), "--output_dir", str(tmp_path / "out")]) == 2
    assert "soft_targets" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_doctor_and_explain_know_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_sentences.save_encoder(tmp_path / "teacher")
    tiny_sentences.write_pairs(tmp_path)
    path = tiny_runs.write_jsonl(tmp_path / "recipe.yaml", [tiny_sentences.recipe(tmp_path)])
    assert explain.main([str(path)]) == 0
    told = capsys.readouterr().out
    assert "embedding_mse" in told
    assert "sentence [batch, 16]" in told
    assert doctor.main(["--recipe", str(path), "--no_cost"]) == 0
    assert "embedding_mse" in capsys.readouterr().out
    start = tmp_path / "start.yaml"
    words = ["--teacher", str(tmp_path / "teacher"), "--student_layers", "1", "--no_cost", "--write", str(start)]
    words += ["--train_file", str(tmp_path / "train.jsonl")]
    assert doctor.main(words) == 0
    recipe = Recipe.load(start)
    assert recipe.data is not None
    assert recipe.data.embeddings is not None
    assert recipe.stages[0].objectives[0].objective == "embedding_mse"
