"""The flags of `distill_lm`: which rows they mean, and what they make of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_distill.commands import lm, mlm
from hf_distill.commands.flags import make_parser, parse
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.errors import RecipeError
from tests import chats

MODELS = ("--teacher_name_or_path", "t", "--student_layers", "2")


def asked(*words: str, script: Script = lm.SCRIPT) -> dict[str, Any]:
    flags = parse(words, make_parser(script.name, script.description, script.flags))
    return recipe_of(flags, script)[0].to_dict()


def test_flags_alone_are_forward_kl_on_conversations() -> None:
    day = ("--chat_date", "2025-03-09")
    recipe = asked("--train_file", "a.jsonl", *MODELS, "--packing", "--system_message", "Be brief.", *day)
    assert recipe["data"]["files"]["train"] == "a.jsonl"
    assert recipe["data"]["chat"]["packing"] is True
    assert recipe["data"]["chat"]["system"] == "Be brief."
    assert recipe["data"]["chat"]["date"] == "2025-03-09"
    assert recipe["data"]["split"]["validation"] == 0.1
    assert recipe["max_length"] == 1024
    soft, labels = recipe["stages"][0]["objectives"]
    assert soft["soft_targets"] == {"temperature": 1.0}
    assert (soft["weight"], labels["weight"]) == (0.9, 0.1)


@pytest.mark.parametrize("words", [("--train_file", "a.txt"), ("--train_file", "a.jsonl", "--text_column", "body")])
def test_raw_text_is_learned_word_by_word(words: tuple[str, ...]) -> None:
    recipe = asked(*words, "--validation_file", "b.txt", *MODELS)
    text = recipe["data"]["text"]
    assert text["task"] == "causal_lm"
    assert text["train"][0]["files"] == [words[1]]
    assert text["validation"][0]["files"] == ["b.txt"]
    assert text["train"][0]["column"] == ("body" if "--text_column" in words else "text")
    with pytest.raises(RecipeError, match="--packing is about conversations, and the rows are raw text"):
        asked(*words, "--packing", *MODELS)


def test_raw_text_is_read_as_the_recipe_or_the_flag_says() -> None:
    text = asked("--train_file", "a.txt", *MODELS, "--text_unit", "paragraph")["data"]["text"]
    assert text["train"][0]["unit"] == "paragraph"
    shipped = ("--recipe", "language_models/on_policy_text", "--train_file", "a.txt", "--validation_file", "b.txt")
    text = asked(*shipped)["data"]["text"]
    assert [text[split][0]["unit"] for split in ("train", "validation")] == ["paragraph", "paragraph"]
    with pytest.raises(RecipeError, match="--test_file goes with conversations; raw text has no test"):
        asked("--train_file", "a.txt", "--test_file", "b.txt", *MODELS)


def test_losses_and_adapters_by_flags() -> None:
    flags = ("--divergence", "skew_rkl", "--skew", "0.2", "--top_k", "9", "--lora_rank", "4")
    recipe = asked("--recipe", "language_models/jsd", "--train_file", "a.jsonl", *flags)
    found = recipe["stages"][0]["objectives"][0]["soft_targets"]
    assert (found["kind"], found["alpha"], found["top_k"]) == ("skew_rkl", 0.2, 9)
    assert recipe["stages"][0]["lora"]["r"] == 4
    assert recipe["data"]["chat"]["packing"] is True
    with pytest.raises(RecipeError, match=r"--beta.* beta is 7\.0; it must be a number at least 0"):
        asked("--recipe", "language_models/jsd", "--beta", "7")


def test_the_student_writes_a_share_of_the_texts() -> None:
    further = '{"temperature": 0.9, "max_new_tokens": 64, "teacher_share": 0.1}'
    flags = ("--student_share", "0.25", "--on_policy", further)
    written = asked("--train_file", "a.jsonl", *MODELS, *flags)["stages"][0]["on_policy"]
    wanted = {"student_share": 0.25, "temperature": 0.9, "max_new_tokens": 64, "teacher_share": 0.1}
    assert {name: written[name] for name in wanted} == wanted
    text = ("--train_file", "a.txt", *MODELS, "--student_share", "0.5")
    with pytest.raises(RecipeError, match="plain text marks no prompts"):
        asked(*text)
    assert asked(*text, "--on_policy", '{"prompt_tokens": 9}')["stages"][0]["on_policy"]["prompt_tokens"] == 9
    with pytest.raises(RecipeError, match=r"--student_share.*less than or equal to 1; given 1\.5"):
        asked("--train_file", "a.jsonl", *MODELS, "--student_share", "1.5")


def test_a_column_of_prompts_is_enough_where_a_model_writes() -> None:
    prompts = ("--train_file", "a.jsonl", "--validation_file", "b.jsonl", "--prompt_column", "q", *MODELS)
    for writes in (("--student_share", "1"), ("--targets", "best")):
        assert asked(*prompts, *writes)["data"]["chat"]["prompt_column"] == "q"
    for reads in ((), ("--student_share", "0.5"), ("--targets", "best", "--control")):
        with pytest.raises(RecipeError, match=r"completion_column: is missing: it goes with prompt_column"):
            asked(*prompts, *reads)


def test_the_teacher_answers_before_the_training() -> None:
    flags = ("--targets", "best", "--max_new_tokens", "64", "--generated_filters", '{"max_repetition": 0.3}')
    recipe = asked("--train_file", "a.jsonl", *MODELS, *flags)
    written = recipe["teacher"]["generate"]
    assert (written["beams"], written["max_new_tokens"], written["filters"]["max_repetition"]) == (5, 64, 0.3)
    assert [stage["targets"] for stage in recipe["stages"]] == ["best"]
    recipe = asked("--recipe", "language_models/seq_kd", "--num_hypotheses", "2", "--targets", "nearest")
    assert (recipe["teacher"]["generate"]["hypotheses"], recipe["teacher"]["generate"]["max_new_tokens"]) == (2, 512)
    with pytest.raises(RecipeError, match="is read by no stage; give one of them targets"):
        asked("--train_file", "a.jsonl", *MODELS, "--num_beams", "3")
    with pytest.raises(RecipeError, match=r"conversations \(data\.chat\) and sounds"):
        asked("--train_file", "a.txt", *MODELS, "--targets", "best")


def test_recipes_of_raw_text_for_causal_models_are_for_both_scripts() -> None:
    for script in (lm.SCRIPT, mlm.SCRIPT):
        assert asked("--recipe", "pretraining/distilgpt2", script=script)["data"]["text"]["task"] == "causal_lm"
    text = asked("--recipe", "pretraining/distilgpt2", "--train_file", "a.jsonl")["data"]["text"]
    assert (text["train"][0]["files"], text["task"]) == (["a.jsonl"], "causal_lm")
    with pytest.raises(RecipeError, match="distill_lm is not for the recipe's kind of data, text; run distill_mlm"):
        asked("--recipe", "pretraining/distilbert")
    with pytest.raises(RecipeError, match="distill_mlm is not for the recipe's kind of data, chat; run distill_lm"):
        asked("--recipe", "language_models/jsd", script=mlm.SCRIPT)


@pytest.mark.slow
def test_a_student_from_flags_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chats.save(tmp_path / "teacher")
    chats.write(tmp_path)
    words = ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    words += ["--teacher_name_or_path", str(tmp_path / "teacher"), "--teacher_dtype", "bfloat16", "--packing"]
    words += ["--student_layers", "1", "--max_seq_length", "128", "--max_steps", "2", "--use_cpu", "--top_k", "8"]
    words += ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "out")]
    assert lm.main(words) == 0
    assert "KL(teacher || model), nats a token: student" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_kl"] > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 1
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.slow
def test_a_student_that_writes_from_flags_alone(tmp_path: Path) -> None:
    chats.save(tmp_path / "teacher")
    chats.write(tmp_path)
    words = ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    words += ["--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--max_seq_length", "128"]
    words += ["--student_share", "1", "--on_policy", '{"max_new_tokens": 5}', "--max_steps", "2", "--use_cpu"]
    words += ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "out")]
    assert lm.main(words) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "in the share 1 of the steps the texts were written by the student itself" in card
    assert "with 5 new tokens at most" in card
