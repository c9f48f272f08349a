"""`distill_qa` from the command line to the files."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, BertForQuestionAnswering

from hf_distill.commands import main as commands
from hf_distill.commands.qa import main
from hf_distill.evaluation.squad import f1
from hf_distill.hub.record import Record
from hf_distill.runs import stages, training
from tests import tiny_runs, tiny_tasks

ROOT = Path(__file__).parents[2]
FAST = ["--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`reader` (a teacher), `small` (another), and the files `squad` and `squad_v2`."""
    folder = tmp_path_factory.mktemp("qa")
    tiny_tasks.save_reader(folder / "reader")
    tiny_tasks.save_reader(folder / "small", seed=2, layers=1)
    tiny_tasks.write_squad(folder / "squad")
    tiny_tasks.write_squad(folder / "squad_v2", without=3)
    return folder


def flags(place: Path, out: Path, *more: str, data: str = "squad") -> list[str]:
    files = [("--train_file", "train.jsonl"), ("--validation_file", "validation.jsonl")]
    named = [word for flag, name in files for word in (flag, str(place / data / name))]
    return [
        *named, "--max_seq_length", "24", "--doc_stride", "4", "--teacher_name_or_path", str(place / "reader"),
        "--student_layers", "1", "--output_dir", str(out), *FAST, *more,
    ]  # fmt: skip


def answers_of(model: Path, rows: list[dict[str, object]]) -> list[str]:
    """The best span of at most 30 tokens of each row, read whole, by a search through all spans."""
    student = AutoModelForQuestionAnswering.from_pretrained(model)
    tokenizer = tiny_runs.tokenizer()
    options = {"return_tensors": "pt", "return_offsets_mapping": True, "return_token_type_ids": True}
    found = []
    for row in rows:
        inputs = tokenizer(row["question"], row["context"], **options)
        offsets, parts = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
        with torch.no_grad():
            outputs = student(**inputs)
        start, end = outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()
        tokens = [i for i, part in enumerate(parts) if part == 1]
        pairs = [(start[i] + end[j], i, j) for i in tokens for j in tokens if i <= j < i + 30]
        _, first, last = max(pairs)
        found.append(str(row["context"])[offsets[first][0] : offsets[last][1]])
    return found


def test_from_flags_to_predictions_with_a_control(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    test = ["--test_file", str(place / "squad" / "test.jsonl"), "--do_train", "--do_eval", "--do_predict", "--control"]
    assert main(flags(place, out, *test)) == 0
    shown = capsys.readouterr().out
    assert "f1 [95 %]" in shown
    assert "Student against control: f1 " in shown
    assert "validation: 9 rows" in shown
    found = json.loads((out / "eval_results.json").read_text())
    names = {"eval_f1", "eval_exact_match", "eval_loss", "eval_agreement", "eval_samples"}
    assert names | {f"{role}_eval_f1" for role in ("teacher", "control")} <= found.keys()
    assert found["eval_samples"] == 9
    record = Record.read(out)
    assert record.task == "question_answering"
    assert record.data.sizes == {"train": 24, "validation": 9, "test": 4}
    assert [facts.settings["temperature"] for facts in record.objectives if facts.objective == "soft_targets"] == [2.0]
    assert set(record.intervals) == {"student", "teacher", "control"}
    predicted = json.loads((out / "predict_results_test.json").read_text())
    assert list(predicted) == [f"q{i}" for i in range(100, 104)]
    assert "question-answering" in (out / "README.md").read_text()


def test_the_figures_are_those_of_the_model_on_disk(place: Path, tmp_path: Path) -> None:
    """In windows of 32 tokens every context is read whole, so each question can be asked by hand."""
    short = tmp_path / "short"
    rows = [row for row in tiny_tasks.question_rows(14, start=24) if len(row["context"].split()) < 20]
    tiny_runs.write_jsonl(short / "train.jsonl", tiny_tasks.question_rows(12))
    tiny_runs.write_jsonl(short / "validation.jsonl", rows)
    out = tmp_path / "out"
    words = flags(place, out, "--max_seq_length", "32", "--n_best_size", "100", data=str(short))
    assert main(words) == 0
    golden = [row["answers"]["text"][0] for row in rows]
    ours = answers_of(out, rows)
    found = json.loads((out / "eval_results.json").read_text())
    assert found["eval_f1"] == pytest.approx(100 * np.mean([f1(a, b) for a, b in zip(ours, golden, strict=True)]))
    theirs = answers_of(place / "reader", rows)
    assert found["eval_agreement"] == pytest.approx(np.mean([a == b for a, b in zip(ours, theirs, strict=True)]))


def test_questions_without_an_answer(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(place, tmp_path / "one", data="squad_v2")) == 2
    assert "set version_2_with_negative" in capsys.readouterr().err
    always = ["--version_2_with_negative", "--null_score_diff_threshold", "-1000"]
    assert main(flags(place, tmp_path / "two", *always, data="squad_v2")) == 0
    found = json.loads((tmp_path / "two" / "eval_results.json").read_text())
    assert (found["eval_NoAns_exact"], found["eval_HasAns_exact"]) == (100.0, 0.0)
    assert found["eval_exact"] == pytest.approx(100 * 3 / 9)
    assert not any(name.endswith("_total") for name in found)


def test_a_broken_off_run_ends_like_one_that_was_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["--num_train_epochs", "2", "--control"]
    assert main(flags(place, whole, *more)) == 0
    train_stage = stages.train_stage

    def killed(job: object, *args: object) -> None:
        train_stage(job, *args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        main(flags(place, broken, *more))
    stage = broken / "stages" / "01-distil"
    last = max(stage.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for name in ("stage.json", "model.safetensors", f"{last.name}/optimizer.pt"):
        (stage / name).unlink()
    monkeypatch.setattr(training, "train_stage", train_stage)
    assert main(flags(place, broken, *more)) == 0
    for name in (".", "stages/control"):
        one, other = (load_file(folder / name / "model.safetensors") for folder in (whole, broken))
        assert all(torch.equal(one[key], other[key]) for key in one)
    results = [json.loads((folder / "eval_results.json").read_text()) for folder in (whole, broken)]
    assert results[0]["eval_f1"] == results[1]["eval_f1"]


def test_a_student_is_evaluated_and_predicts_alone(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    test = ["--test_file", str(place / "squad" / "test.jsonl")]
    assert main(flags(place, out, *test, "--do_train", "--do_eval", "--do_predict")) == 0
    first, predicted = ((out / name).read_text() for name in ("eval_results.json", "predict_results_test.json"))
    assert main(["--output_dir", str(out), "--do_eval", "--do_predict"]) == 0
    again = json.loads((out / "eval_results.json").read_text())
    assert again["eval_f1"] == json.loads(first)["eval_f1"]
    assert (out / "predict_results_test.json").read_text() == predicted


def rows_with(folder: Path, **wrong: object) -> list[str]:
    rows = tiny_tasks.question_rows(8)
    path = tiny_runs.write_jsonl(folder / "rows.jsonl", [*rows[:-1], {**rows[-1], **wrong}])
    return ["--train_file", str(path)]


def empty(folder: Path) -> list[str]:
    (folder / "empty.jsonl").write_text("")
    return ["--train_file", str(folder / "empty.jsonl")]


def without_answers(folder: Path) -> list[str]:
    rows = [{key: row[key] for key in ("id", "context", "question")} for row in tiny_tasks.question_rows(8)]
    return ["--train_file", str(tiny_runs.write_jsonl(folder / "rows.jsonl", rows))]


CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "missing column": (without_answers, "no column 'answers'"),
    "misplaced answer": (
        lambda folder: rows_with(folder, answers={"text": ["good"], "answer_start": [0]}),
        "line 8, column 'answers': the answer 'good' is not at answer_start 0",
    ),
    "empty file": (empty, "holds no rows"),
    "no file": (lambda folder: ["--train_file", str(folder / "none.jsonl")], "no such file"),
    "no data": (lambda folder: [], "there are no data; give --train_file"),
    "two sources": (lambda folder: ["--train_file", "x", "--dataset_name", "y"], "both given"),
    "no room": (lambda folder: [*rows_with(folder), "--doc_stride", "30"], "leave no room for a question"),
    "unknown flag": (lambda folder: ["--doc_strid", "3"], "did you mean --doc_stride"),
    "a flag without data": (lambda folder: ["--recipe", "glue/sst2", "--doc_stride", "3"], "--doc_stride goes with"),
    "a count of nought": (lambda folder: [*rows_with(folder), "--n_best_size", "0"], "no number of 1 or more"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_message_and_nothing_written(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, words = CASES[name]
    out = tmp_path / "out"
    models = ["--teacher_name_or_path", str(place / "reader"), "--student_layers", "1", "--use_cpu"]
    assert main([*case(tmp_path), *models, "--max_seq_length", "24", "--output_dir", str(out)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert not out.exists()


def test_a_teacher_without_such_a_head_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_runs.save_base(tmp_path / "base")
    words = flags(place, tmp_path / "out", "--teacher_name_or_path", str(tmp_path / "base"))
    assert main(words) == 2
    assert "has no weights for qa_outputs" in capsys.readouterr().err
    BertForQuestionAnswering(tiny_runs.config(("a", "b", "c"))).save_pretrained(tmp_path / "three")
    tiny_runs.tokenizer().save_pretrained(tmp_path / "three")
    words = flags(place, tmp_path / "out", "--teacher_name_or_path", str(tmp_path / "three"))
    assert main(words) == 2
    assert "the teacher has 3 labels, and a token has 2 scores here" in capsys.readouterr().err


def test_the_script_and_the_command_are_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands.main(["qa", "--doc_strid", "2"]) == 2
    assert "did you mean --doc_stride" in capsys.readouterr().err
    script = str(ROOT / "scripts" / "distill_qa.py")
    monkeypatch.setattr(sys, "argv", [script, "--train_file", "none.jsonl"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err.startswith("error: command line: there is no teacher")
