"""The words that a shell completes. What bash makes of them is tested in tests/slow/test_completion.py."""

from __future__ import annotations

import pytest

from hf_distill import objectives
from hf_distill.commands import completion, generate, glue, main, words
from hf_distill.commands import objectives as listing
from hf_distill.commands.words import Words
from hf_distill.recipe import shipped

KNOWN = {
    "glue": Words(("--help", "--recipe"), (), {"--recipe": ("glue/sst2", "quickstart")}),
    "compare": Words((), ("glue",), {}),
    "compare glue": Words(("--recipes",), (), {"--recipes": ("glue/sst2", "it's")}, frozenset({"--recipes"})),
}


def test_words_are_those_of_the_parser() -> None:
    (parser,) = words.parsers_of(glue).values()
    found = words._words(parser, ())
    assert len(found.flags) == len(set(found.flags)) > 150
    assert {"--recipe", "--learning_rate", "--task_name"} <= set(found.flags)
    assert not {flag for flag in found.flags if "token" in flag and flag != "--tokens_per_batch"} & {"--hub_token"}
    assert not any(flag.startswith("--learning-") for flag in found.flags)
    assert found.values["--recipe"] == tuple(shipped())
    assert "distilbert" in found.values["--student_pick"]
    assert "mnli" in found.values["--task_name"]
    assert "tensorboard" in found.values["--report_to"]
    assert "--temperature" not in found.values


def test_names_stand_behind_commands() -> None:
    (parser,) = words.parsers_of(listing).values()
    assert words._words(parser, ()).others == tuple(objectives.names())
    assert set(words.parsers_of(generate)) == {"", "translation", "lm", "speech"}


def test_a_table_says_each_list_of_words_once() -> None:
    text = completion._function("values", {"a --x": ("one", "two"), "b --x": ("one", "two"), "c --y": ("it's",)})
    assert text.count("one two") == 1
    assert "'a --x'|'b --x') echo 'one two' ;;" in text
    assert """'c --y') echo 'it'"'"'s' ;;""" in text


def test_every_shell_has_every_word() -> None:
    for shell, render in completion.SHELLS.items():
        text = render("# head\n", KNOWN)
        assert "# head\n" in text
        assert "hf-distill" in text
        for name in main.COMMANDS:
            assert name in text, f"{shell}: {name}"
        assert ("--recipes" in text) or ("-l recipes" in text)
        assert "glue/sst2 quickstart" in text


def test_a_shell_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
