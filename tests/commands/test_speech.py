"""The command of models that hear: from flags to a recipe, and from there to a student."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_distill.commands import generate, speech
from hf_distill.commands.flags import make_parser, parse
from hf_distill.commands.overrides import recipe_of
from hf_distill.recipe import Recipe
from tests import sounds


def asked(*words: str) -> dict[str, Any]:
    script = speech.SCRIPT
    flags = parse(words, make_parser(script.name, script.description, script.flags))
    return recipe_of(flags, script)[0].to_dict()


PLAIN = ("--train_file", "a.jsonl", "--teacher_name_or_path", "t", "--student_name_or_path", "s")


def test_flags_alone_are_distillation_from_hypotheses() -> None:
    recipe = asked(*PLAIN, "--audio_column", "sound", "--sampling_rate", "8000", "--num_beams", "9")
    assert recipe["data"]["speech"] == {"audio_column": "sound", "text_column": "text", "sampling_rate": 8000}
    assert recipe["teacher"]["generate"] | {"beams": 9, "hypotheses": 8} == recipe["teacher"]["generate"]
    assert recipe["student"]["model"] == "s"
    assert recipe["stages"][0]["targets"] == "all"


def test_flags_on_top_of_a_recipe() -> None:
    recipe = asked("--recipe", "review/ctc_nbest_kd", "--generated_folder", "heard", "--num_hypotheses", "3")
    assert recipe["teacher"]["generate"] | {"folder": "heard", "hypotheses": 3} == recipe["teacher"]["generate"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--recipe", "review/seq_kd"], "translation"),
        (["translation", "--recipe", "review/seq_kd"], "translation"),
        (["--recipe", "review/ctc_nbest_kd"], "speech"),
        (["--max_steps", "1", "--recipe=review/ctc_nbest_kd"], "speech"),
        (["speech", *PLAIN], "speech"),
        (["--recipe", "language_models/seq_kd"], "chat"),
        (["lm", *PLAIN, "--targets", "best"], "chat"),
    ],
)
def test_targets_are_generated_for_the_kind_of_data_that_there_is(
    words: list[str], kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def generate_targets(recipe: Recipe, folder: str) -> tuple[Path, Any]:
        asked.append(recipe.to_dict())
        return Path(folder), SimpleNamespace(rows=3)

    monkeypatch.setattr(generate, "generate_targets", generate_targets)
    assert generate.main([*words, "--output_dir", "out"]) == 0
    assert asked[0]["data"][kind] is not None
    assert asked[0]["teacher"]["generate"] is not None
    assert capsys.readouterr().out == "out: the texts of 3 rows\n"


def test_other_kinds_of_data_are_not_generated_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["speach", *PLAIN]) == 2
    assert "'speach' is no kind of data, did you mean 'speech'?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_student_learns_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sounds.save(sounds.write_sounds(tmp_path) / "teacher", seed=1)
    sounds.save(tmp_path / "student")
    words = ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    words += ["--teacher_name_or_path", str(tmp_path / "teacher")]
    words += ["--student_name_or_path", str(tmp_path / "student"), "--output_dir", str(tmp_path / "out")]
    words += ["--use_cpu", "--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true"]
    assert speech.main(words) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "processor_config.json").is_file()
    assert "wer" in capsys.readouterr().out
