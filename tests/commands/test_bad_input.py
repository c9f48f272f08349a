"""Whatever a user gets wrong: one message, exit status 2, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from hf_distill.commands.glue import main
from tests import tiny_runs
from tests.processes import own_lines

ROOT = Path(__file__).parents[2]


def flags(home: Path, **changes: str | None) -> list[str]:
    """A command line that would work, with changes; None takes a flag away."""
    given: dict[str, str | None] = {
        "task_name": "sst2",
        "dataset_dir": str(home / "sst2"),
        "teacher_name_or_path": str(home / "teacher"),
        "student_layers": "1",
    }
    given |= changes
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]


def own(home: Path, path: Path, **changes: str | None) -> list[str]:
    files = {"task_name": None, "dataset_dir": None, "train_file": str(path), "text_columns": "text", **changes}
    return flags(home, **files)


def rows(folder: Path, *labels: object, text: str = "good film") -> Path:
    return tiny_runs.write_jsonl(folder / "rows.jsonl", [{"text": text, "label": label} for label in labels])


def recipe(folder: Path, text: str) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_text(f"schema: 1\ntask: sst2\nteacher: {{model: t}}\nstudent: {{from_layers: {{layers: 1}}}}\n{text}")
    return ["--recipe", str(path)]


def empty_split(home: Path, folder: Path) -> list[str]:
    tiny_runs.write_sst2(folder / "data")
    (folder / "data" / "validation.jsonl").write_text("")
    return flags(home, dataset_dir=str(folder / "data"))


def missing_split(home: Path, folder: Path) -> list[str]:
    tiny_runs.write_sst2(folder / "data")
    (folder / "data" / "validation.jsonl").unlink()
    return flags(home, dataset_dir=str(folder / "data"))


def wrong_column(home: Path, folder: Path) -> list[str]:
    tiny_runs.write_sst2(folder / "data")
    tiny_runs.write_jsonl(folder / "data" / "train.jsonl", [{"text": "good", "label": 1}])
    return flags(home, dataset_dir=str(folder / "data"))


def other_tokenizer(home: Path, folder: Path) -> list[str]:
    AutoModelForSequenceClassification.from_pretrained(home / "teacher").save_pretrained(folder / "student")
    words = [*tiny_runs.WORDS[:-2], tiny_runs.WORDS[-1], tiny_runs.WORDS[-2]]
    tiny_runs.tokenizer(words).save_pretrained(folder / "student")
    return flags(home, student_layers=None, student_name_or_path=str(folder / "student"))


def damaged_weights(home: Path, folder: Path) -> list[str]:
    tiny_runs.save_teacher(folder / "teacher")
    weights = folder / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return flags(home, teacher_name_or_path=str(folder / "teacher"))


Case = Callable[[Path, Path], list[str]]

CASES: dict[str, tuple[Case, str]] = {
    "missing file": (lambda home, folder: own(home, folder / "none.jsonl"), "no such file"),
    "missing folder": (lambda home, folder: flags(home, dataset_dir=str(folder / "none")), "there is no folder"),
    "missing split": (missing_split, "no file validation"),
    "empty split": (empty_split, "holds no rows"),
    "unknown task": (lambda home, folder: flags(home, task_name="sst3"), "did you mean 'sst2'"),
    "column of glue": (wrong_column, "no column 'sentence'"),
    "own column": (lambda home, folder: own(home, rows(folder, 0, 1), text_columns="txt"), "did you mean 'text'"),
    "own label column": (lambda home, folder: own(home, rows(folder, 0, 1), label_column="y"), "no column 'y'"),
    "no label at all": (lambda home, folder: own(home, rows(folder, -100, -100)), "holds -100"),
    "one label": (lambda home, folder: own(home, rows(folder, 1, 1, 1)), "one label only, '1'"),
    "a label missing": (lambda home, folder: own(home, rows(folder, 1, None)), "line 2, column 'label'"),
    "teacher's path": (lambda home, folder: flags(home, teacher_name_or_path=str(folder / "none")), "no folder"),
    "teacher without a head": (
        lambda home, folder: flags(home, teacher_name_or_path=str(home / "base")),
        "teacher.fine_tune",
    ),
    "teacher of another task": (
        lambda home, folder: flags(home, teacher_name_or_path=str(home / "nli")),
        "has 3 labels",
    ),
    "damaged teacher": (damaged_weights, "cannot be loaded"),
    "tokenizers differ": (other_tokenizer, "tokenizers differ"),
    "layers beyond the teacher": (lambda home, folder: flags(home, student_layers="1,7"), "layer 7"),
    "two students": (lambda home, folder: flags(home, student_name_or_path="x"), "both given"),
    "two tasks": (lambda home, folder: [*flags(home), "--train_file", "x.csv"], "both given"),
    "recipe's key": (
        lambda home, folder: recipe(folder, "stagess: []\nstages: [{name: a, objectives: [{labels: {}}]}]\n"),
        "did you mean 'stages'",
    ),
    "recipe's type": (
        lambda home, folder: recipe(folder, "max_length: many\nstages: [{name: a, objectives: [{labels: {}}]}]\n"),
        "max_length",
    ),
    "half precision on a cpu": (lambda home, folder: [*flags(home), "--fp16"], "needs a GPU"),
    "resume by hand": (lambda home, folder: [*flags(home), "--resume_from_checkpoint", "x"], "goes on by itself"),
    "predicting without a test": (
        lambda home, folder: [*own(home, rows(folder, *[0, 1] * 9)), "--do_train", "--do_predict"],
        "no test split",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_message_and_nothing_written(
    name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    case, words = CASES[name]
    out = tmp_path / "out"
    assert main([*case(home, tmp_path), "--output_dir", str(out), "--use_cpu"]) == 2
    told = capsys.readouterr().err
    message = told[told.index("error: ") :]
    assert words in message
    assert "Traceback" not in told
    assert not out.exists()


def test_an_output_dir_that_is_a_file(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main([*flags(home), "--output_dir", str(tmp_path / "out"), "--use_cpu"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.slow
def test_a_process_of_its_own_ends_with_2_and_without_a_traceback(home: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "distill_glue.py"),
        *flags(home, dataset_dir=str(tmp_path / "none")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (told,) = own_lines(done.stderr)
    assert told.startswith("error: GLUE task 'sst2': no file train")
    assert not (tmp_path / "out").exists()
