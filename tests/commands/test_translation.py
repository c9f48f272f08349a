"""The commands of models that write: from flags to a recipe, and from there to the teacher's texts and a student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_distill.commands import generate, translation
from hf_distill.commands.flags import make_parser, parse
from hf_distill.commands.overrides import recipe_of
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from tests import writers


def asked(*words: str) -> dict[str, Any]:
    script = translation.SCRIPT
    flags = parse(words, make_parser(script.name, script.description, script.flags))
    return recipe_of(flags, script)[0].to_dict()


PLAIN = ("--train_file", "a.jsonl", "--teacher_name_or_path", "t", "--student_layers", "2")


def test_flags_alone_are_sequence_level_distillation() -> None:
    recipe = asked(*PLAIN, "--source_column", "en", "--source_prefix", "to German: ", "--num_beams", "7")
    assert recipe["data"]["translation"]["source_column"] == "en"
    assert recipe["data"]["translation"]["prefix"] == "to German: "
    assert recipe["teacher"]["generate"]["beams"] == 7
    assert recipe["stages"][0]["targets"] == "best"
    assert [*recipe["stages"][0]["objectives"][0]] == ["labels", "weight"]


def test_the_texts_of_the_data_need_none_of_the_teacher() -> None:
    """It was refused, as the teacher wrote texts that no stage read."""
    for flags in (PLAIN, ("--recipe", "review/seq_kd")):
        recipe = asked(*flags, "--targets", "reference")
        assert recipe["teacher"].get("generate") is None
        assert [stage["targets"] for stage in recipe["stages"]] == ["reference"] * len(recipe["stages"])
    with pytest.raises(RecipeError, match=r"teacher\.generate: is read by no stage"):
        asked(*PLAIN, "--targets", "reference", "--num_beams", "7")


def test_flags_on_top_of_a_recipe() -> None:
    flags = ("--generated_folder", "texts", "--num_hypotheses", "3", "--max_new_tokens", "9", "--targets", "nearest")
    recipe = asked("--recipe", "review/seq_kd", *flags)
    assert (
        recipe["teacher"]["generate"] | {"folder": "texts", "hypotheses": 3, "max_new_tokens": 9}
        == (recipe["teacher"]["generate"])
    )
    assert recipe["stages"][0]["targets"] == "nearest"
    with pytest.raises(RecipeError, match=r"--num_hypotheses.*are 9, and there are 5 beams"):
        asked("--recipe", "review/seq_kd", "--num_hypotheses", "9")


def test_texts_may_be_drawn() -> None:
    flags = ("--generated_drawing", '{"temperature": 0.8, "top_p": 0.95}', "--num_hypotheses", "9")
    made = asked(*PLAIN, *flags)["teacher"]["generate"]
    assert made["drawing"] == {"temperature": 0.8, "top_k": 0, "top_p": 0.95, "seed": 0}
    assert made["hypotheses"] == 9
    assert Recipe.load("review/nbest_kd").to_dict()["teacher"]["generate"]["beams"] == 8
    assert "drawing" in asked("--recipe", "review/nbest_kd", *flags)["teacher"]["generate"]
    with pytest.raises(RecipeError, match="--num_beams and --generated_drawing are both given"):
        asked(*PLAIN, *flags, "--num_beams", "9")
    with pytest.raises(RecipeError, match="temperature"):
        asked(*PLAIN, "--generated_drawing", '{"temperature": 0}')


def test_flags_of_what_is_generated_in_evaluation() -> None:
    assert asked(*PLAIN)["data"]["translation"].get("generate") is None
    generate = asked(*PLAIN, "--predict_with_generate", "--generation_num_beams", "4")["data"]["translation"][
        "generate"
    ]
    assert generate["beams"] == 4
    flags = ("--predict_with_generate", "--generation_max_new_tokens", "9")
    generate = asked("--recipe", "review/seq_kd", *flags)["data"]["translation"]["generate"]
    assert (generate["beams"], generate["max_new_tokens"]) == (1, 9)
    with pytest.raises(RecipeError, match="--generation_num_beams goes with --predict_with_generate"):
        asked(*PLAIN, "--generation_num_beams", "4")


@pytest.mark.slow
def test_student_teacher_and_control_generate_and_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writers.write_pairs(tmp_path, {})
    (tmp_path / "test.jsonl").write_bytes((tmp_path / "validation.jsonl").read_bytes())
    writers.writer().save_pretrained(tmp_path / "teacher")
    writers.tokenizer().save_pretrained(tmp_path / "teacher")
    words = [f"--{split}_file={tmp_path / split}.jsonl" for split in ("train", "validation", "test")]
    words += ["--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--max_new_tokens", "8"]
    words += [
        "--output_dir",
        str(tmp_path / "out"),
        "--use_cpu",
        "--max_steps",
        "2",
        "--report_to",
        "none",
        "--control",
    ]
    words += ["--predict_with_generate", "--generation_num_beams", "2", "--generation_max_new_tokens", "7"]
    words += ["--do_train", "--do_eval", "--do_predict", "--disable_tqdm", "true"]
    assert translation.main(words) == 0
    out = tmp_path / "out"
    results = json.loads((out / "all_results.json").read_text())
    for role in ("", "teacher_", "control_"):
        for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "perplexity"):
            assert {f"{role}eval_{name}", f"{role}test_{name}"} <= results.keys()
            assert results[f"{role}eval_{name}"] >= 0
    lines = (out / "predict_results_test.txt").read_text().splitlines()
    assert len(lines) == 6
    assert any(lines)
    assert "bleu" in capsys.readouterr().out
    assert "bleu" in (out / "README.md").read_text()
    assert json.loads((out / "distillation.json").read_text())["teacher_metrics"]["test_chrf"] == pytest.approx(
        results["teacher_test_chrf"]
    )


@pytest.mark.parametrize(
    "how",
    [
        pytest.param([], marks=pytest.mark.slow),
        ["--generated_drawing", '{"temperature": 0.8}', "--num_hypotheses", "2", "--targets", "all"],
    ],
)
def test_a_teacher_writes_once_and_the_student_learns_it(
    how: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writers.write_pairs(tmp_path, {})
    writers.writer().save_pretrained(tmp_path / "teacher")
    writers.tokenizer().save_pretrained(tmp_path / "teacher")
    words = ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    words += ["--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--max_new_tokens", "8"]
    words += ["--generated_folder", str(tmp_path / "texts"), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    words += ["--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true", *how]
    assert generate.main(words) == 0
    assert f"{tmp_path / 'texts'}: the texts of 12 rows" in capsys.readouterr().out
    before = (tmp_path / "texts" / "part-00000.jsonl").stat().st_mtime_ns
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert translation.main(words) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "texts" / "part-00000.jsonl").stat().st_mtime_ns == before
    assert "accuracy" in capsys.readouterr().out
