"""`hf-distill` without a command, with one, and with one that is not there."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
from pathlib import Path

import pytest

import hf_distill
from hf_distill.commands import flags, glue, help, main
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.commands.script import parser_of
from hf_distill.recipe import Recipe
from tests.commands.test_flags import SCRIPT

ROOT = Path(hf_distill.__file__).parent


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line prints that asks for help."""
    with contextlib.suppress(SystemExit):  # argparse ends the process; tests see what was printed
        assert main.main(words) == 0
    return capsys.readouterr().out


def test_the_overview_has_every_command_in_as_many_columns_as_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = shown([], capsys)
    assert text == shown(["--help"], capsys) == shown(["help"], capsys)
    for title, group in main.GROUPS.items():
        assert f"\n{title}:\n" in text
        for name in group:
            assert re.search(rf"^  {name}  +\S", text, re.MULTILINE)
    listed = text[text.index("Train a student:") : text.index("Examples:")]
    assert max(map(len, listed.splitlines())) <= 60


def test_every_command_is_there() -> None:
    for name, row in main.COMMANDS.items():
        assert (ROOT / "commands" / f"{row.module}.py").is_file(), name
        assert not row.meaning.endswith(".")
    assert set(main.OTHER_NAMES.values()) <= set(main.COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["glu"]) == 2
    assert "unknown command 'glu', did you mean 'glue'?" in capsys.readouterr().err
    assert main.main(["help", "objectivs"]) == 2
    assert "did you mean 'objectives'?" in capsys.readouterr().err


def test_a_command_goes_by_its_old_name() -> None:
    assert main.command("cache-teacher") is main.command("cache")


def imported(module: str, seen: set[str]) -> set[str]:
    """The modules that are imported with one, those of the package followed; what functions import is left out."""
    if module in seen:
        return seen
    seen.add(module)
    spec = importlib.util.find_spec(module)
    if not module.startswith("hf_distill") or spec is None or spec.origin is None:
        return seen
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported(alias.name, seen)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            imported(str(node.module), seen)
    return seen


def test_the_overview_waits_for_no_library() -> None:
    found = {name.partition(".")[0] for name in imported("hf_distill", imported("hf_distill.commands.main", set()))}
    assert not found & {"torch", "transformers", "datasets", "accelerate", "numpy", "pydantic"}
    assert "hf_distill" in found


# ---- --help ----


def test_short_help_shows_ours_and_the_usual_flags(capsys: pytest.CaptureFixture[str]) -> None:
    short, every = shown(["help", "glue"], capsys), shown(["glue", "--help", "all"], capsys)
    flags_of = {text: set(re.findall(r"^  --(\w+)", text, re.MULTILINE)) for text in (short, every)}
    parser = parser_of(SCRIPT)
    known = {action.dest for action in parser._actions}
    assert set(help.USUAL) <= known
    assert set(help.USUAL) | set(flags.DISTILLATION) | set(glue.FLAGS) <= flags_of[short]
    assert "adam_beta2" not in flags_of[short]
    assert {"adam_beta2", "no_skip_memory_metrics"} & flags_of[every]
    assert known - set(flags.TOKENS) <= flags_of[every]
    left_out = len(flags_of[every]) - len(flags_of[short])
    assert f"--help all lists {left_out} more flags" in short
    assert not set(flags.TOKENS) & flags_of[every]


def test_help_is_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    text = shown(["help", "glue"], capsys)
    ours = [line for line in text.splitlines() if line not in glue.DESCRIPTION.splitlines()]
    assert max(map(len, ours)) <= 72
    assert "hf-distill glue --recipe quickstart" in text


def test_a_value_is_one_short_word_and_choices_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(["help", "glue"], capsys).split())
    assert "--teacher_name_or_path TEACHER The teacher" in text
    assert "--num_train_epochs X Passes" in text
    assert "--bf16 Compute" in text
    assert "--student_pick PICK Which layers a number stands for. One of spread, uniform" in text
    assert "--teacher-name-or-path" not in text


@pytest.mark.parametrize("name", ["glue", "qa", "ner", "mlm", "lm", "embeddings", "translation", "speech"])
def test_the_examples_of_the_help_make_recipes(name: str) -> None:
    module = importlib.import_module(f"hf_distill.commands.{name}")
    script: Script = module.SCRIPT
    text = script.description.replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.startswith(f"  hf-distill {name} ")]
    assert lines
    for words in lines:
        recipe, _ = recipe_of(flags.parse(words[2:], parser_of(script)), script)
        assert isinstance(recipe, Recipe)
