"""`distill_glue` from the command line to the files."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_distill.commands import script
from hf_distill.commands.glue import main
from hf_distill.data import hub
from hf_distill.hub.record import Record
from hf_distill.runs import publishing
from hf_distill.runs.answering import evidence_of
from hf_distill.runs.folder import RunFolder
from tests import tiny_runs

FAST = ["--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]


def sst2(home: Path, out: Path, *more: str) -> list[str]:
    return [
        "--task_name", "sst2", "--dataset_dir", str(home / "sst2"), "--teacher_name_or_path", str(home / "teacher"),
        "--student_layers", "1", "--output_dir", str(out), *FAST, *more,
    ]  # fmt: skip


def predictions(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "index\tprediction"
    return [line.split("\t") for line in lines[1:]]


def test_sst2_from_flags_to_predictions(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(sst2(home, out, "--do_train", "--do_eval", "--do_predict", "--max_predict_samples", "5")) == 0
    shown = capsys.readouterr().out
    assert "teacher" in shown
    assert "accuracy [95 %]" in shown
    rows = predictions(out / "predict_results_sst2.txt")
    assert [index for index, _ in rows] == ["0", "1", "2", "3", "4"]
    student = AutoModelForSequenceClassification.from_pretrained(out)
    texts = [row["sentence"] for row in tiny_runs.sst2_rows(5, start=50)]
    with torch.no_grad():
        logits = student(**tiny_runs.tokenizer()(texts, padding=True, return_tensors="pt")).logits
    assert [label for _, label in rows] == [("negative", "positive")[i] for i in logits.argmax(-1).tolist()]
    assert Record.read(out).training_arguments["num_train_epochs"] == 1.0
    assert main(sst2(home, out, "--max_predict_samples", "5")) == 0
    assert capsys.readouterr().out.count("teacher") == shown.count("teacher")


def test_without_do_flags_it_trains_and_evaluates_and_does_not_predict(home: Path, tmp_path: Path) -> None:
    assert main(sst2(home, tmp_path / "out")) == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"eval_results.json", "train_results.json"} <= left
    assert not any(name.startswith("predict_results") for name in left)


def test_training_alone_evaluates_nothing(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(sst2(home, tmp_path / "out", "--do_train")) == 0
    assert not (tmp_path / "out" / "eval_results.json").exists()
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "accuracy [95 %]" not in capsys.readouterr().out


def test_mnli_has_two_validations_and_predicts_ax_too(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = [
        "--task_name", "mnli", "--dataset_dir", str(home / "mnli"), "--teacher_name_or_path", str(home / "nli"),
        "--student_layers", "1", "--output_dir", str(out), *FAST, "--do_train", "--do_eval", "--do_predict",
    ]  # fmt: skip
    assert main(flags) == 0
    found = json.loads((out / "eval_results.json").read_text())
    assert {"eval_accuracy", "eval_accuracy_mm", "eval_loss_mm", "teacher_eval_accuracy_mm"} <= found.keys()
    names = {"entailment", "neutral", "contradiction"}
    for name, rows in (("mnli", 4), ("mnli-mm", 4), ("ax", 5)):
        written = predictions(out / f"predict_results_{name}.txt")
        assert len(written) == rows
        assert {label for _, label in written} <= names
    (out / "predict_results_ax.txt").rename(out / "before.txt")
    ax = [
        "--task_name",
        "ax",
        "--dataset_dir",
        str(home / "mnli" / "ax"),
        "--output_dir",
        str(out),
        "--do_predict",
        "--use_cpu",
    ]
    assert main(ax) == 0
    assert (out / "predict_results_ax.txt").read_text() == (out / "before.txt").read_text()


def test_ax_is_predicted_by_a_named_student_and_never_trained(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--task_name",
        "ax",
        "--dataset_dir",
        str(home / "mnli" / "ax"),
        "--output_dir",
        str(tmp_path / "out"),
        "--use_cpu",
    ]
    named = ["--student_name_or_path", str(home / "nli")]
    assert main([*flags, *named]) == 0
    assert len(predictions(tmp_path / "out" / "predict_results_ax.txt")) == 5
    assert main([*flags, *named, "--do_train"]) == 2
    assert "use --do_predict alone" in capsys.readouterr().err
    assert main([*flags[:4], "--output_dir", str(tmp_path / "none"), "--use_cpu"]) == 2
    assert "holds no student" in capsys.readouterr().err


def test_stsb_is_a_regression(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "stsb"
    rows = [
        {"sentence1": tiny_runs.sentence(i)[0], "sentence2": tiny_runs.sentence(i + 1)[0], "label": i % 6 * 0.9}
        for i in range(12)
    ]
    for split in ("train", "validation"):
        tiny_runs.write_jsonl(data / f"{split}.jsonl", rows)
    tiny_runs.write_jsonl(data / "test.jsonl", [{**row, "label": -1} for row in rows[:3]])
    flags = [
        "--task_name", "stsb", "--dataset_dir", str(data), "--teacher_name_or_path", str(home / "score"),
        "--student_layers", "1", "--output_dir", str(tmp_path / "out"), *FAST,
        "--do_train", "--do_eval", "--do_predict",
    ]  # fmt: skip
    assert main(flags) == 0
    found = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert {"eval_pearson", "eval_spearmanr", "eval_agreement"} <= found.keys()
    assert "eval_calibration_error" not in found
    scores = [score for _, score in predictions(tmp_path / "out" / "predict_results_stsb.txt")]
    assert len(scores) == 3
    assert all(score == f"{float(score):.3f}" for score in scores)


def test_a_task_of_ones_own(home: Path, tmp_path: Path) -> None:
    """Pairs in gzipped CSV, labels as words, one text empty; the student is a model of its own with a new head."""
    rows = [(tiny_runs.sentence(i)[0], "" if i == 3 else "the film", ("no", "yes")[i % 2]) for i in range(30)]
    with gzip.open(tmp_path / "train.csv.gz", "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("first", "second", "answer"), *rows])
    teacher = AutoModelForSequenceClassification.from_pretrained(
        home / "teacher", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    teacher.save_pretrained(tmp_path / "teacher")
    tiny_runs.tokenizer().save_pretrained(tmp_path / "teacher")
    test = tiny_runs.write_jsonl(
        tmp_path / "test.jsonl", [{"first": "good", "second": "film"}, {"first": "bad", "second": ""}]
    )
    out = tmp_path / "out"
    flags = [
        "--train_file", str(tmp_path / "train.csv.gz"), "--test_file", str(test), "--text_columns", "first,second",
        "--label_column", "answer", "--teacher_name_or_path", str(tmp_path / "teacher"),
        "--student_name_or_path", str(home / "base"), "--output_dir", str(out), *FAST,
        "--do_train", "--do_eval", "--do_predict",
    ]  # fmt: skip
    assert main(flags) == 0
    record = Record.read(out)
    assert record.data.sizes == {"train": 26, "validation": 4, "test": 2}
    assert record.data.sources["train"].name == "train.csv.gz"
    assert {label for _, label in predictions(out / "predict_results_test.txt")} <= {"no", "yes"}
    assert AutoModelForSequenceClassification.from_pretrained(out).config.label2id == {"no": 0, "yes": 1}


def test_a_data_set_of_the_hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its classes are called otherwise than the teacher's, and its test has none; a tenth of train is validation. What
    comes after the run reads the commit of the run."""
    classes = Features({"text": Value("string"), "mood": ClassLabel(names=["neg", "pos"])})
    texts, labels = zip(*map(tiny_runs.sentence, range(30)), strict=True)
    splits = {
        "train": Dataset.from_dict({"text": texts, "mood": labels}, features=classes),
        "test": Dataset.from_dict({"text": texts[:3], "mood": [-1] * 3}, features=classes),
    }
    asked: list[str | None] = []

    def download(hub_id: str, config: str | None, revision: str | None) -> tuple[DatasetDict, str]:
        asked.append(revision)
        return DatasetDict(splits), "c" * 40

    monkeypatch.setattr(hub, "download", download)
    flags = [
        "--dataset_name", "me/moods", "--dataset_revision", "v1", "--text_columns", "text", "--label_column", "mood",
        "--class_names", "negative,positive", "--teacher_name_or_path", str(home / "teacher"), "--student_layers", "1",
        "--output_dir", str(tmp_path / "out"), *FAST, "--do_train", "--do_eval", "--do_predict",
    ]  # fmt: skip
    assert main(flags) == 0
    record = Record.read(tmp_path / "out")
    assert (record.data.id, record.data.revision) == ("me/moods", "c" * 40)
    assert record.data.sizes == {"train": 26, "validation": 4, "test": 3}
    assert ModelCard.load(tmp_path / "out" / "README.md").data.datasets == ["me/moods"]
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.id2label == {0: "negative", 1: "positive"}
    told = predictions(tmp_path / "out" / "predict_results_test.txt")
    assert {label for _, label in told} <= {"negative", "positive"}
    assert main(["--output_dir", str(tmp_path / "out"), "--do_predict", "--use_cpu"]) == 0
    assert predictions(tmp_path / "out" / "predict_results_test.txt") == told
    again = ["--reproduce", str(tmp_path / "out"), "--output_dir", str(tmp_path / "again")]
    assert main([*again, "--teacher_name_or_path", str(home / "teacher")]) == 0
    evidence_of(RunFolder(tmp_path / "out").recipe(), tmp_path / "out")
    assert asked == ["v1", *["c" * 40] * 3]


def several_classes(folder: Path) -> list[str]:
    """The flags of rows with lists of classes, and of tests without any."""
    lists = [["long"], ["good", "long"], [], ["good"]]
    rows = [{"text": tiny_runs.sentence(i)[0], "tags": lists[i % 4]} for i in range(40)]
    train = tiny_runs.write_jsonl(folder / "train.jsonl", rows)
    test = tiny_runs.write_jsonl(folder / "test.jsonl", [{"text": row["text"]} for row in rows[:3]])
    return [
        "--train_file", str(train), "--test_file", str(test), "--text_columns", "text", "--label_column", "tags",
    ]  # fmt: skip


def test_texts_with_several_classes_from_flags_to_predictions(home: Path, tmp_path: Path) -> None:
    """The teacher has its classes in another order, and does not say that a text has several."""
    teacher, out = tiny_runs.save_teacher(tmp_path / "teacher", labels=("LONG", "GOOD")), tmp_path / "out"
    flags = [*several_classes(tmp_path), "--teacher_name_or_path", str(teacher), "--student_layers", "1", *FAST]
    assert main([*flags, "--output_dir", str(out), "--do_train", "--do_eval", "--do_predict"]) == 0
    student = AutoModelForSequenceClassification.from_pretrained(out)
    assert student.config.problem_type == "multi_label_classification"
    assert student.config.id2label == {0: "long", 1: "good"}
    with torch.no_grad():
        texts = [tiny_runs.sentence(i)[0] for i in range(3)]
        logits = student(**tiny_runs.tokenizer()(texts, padding=True, return_tensors="pt")).logits
    told = predictions(out / "predict_results_test.txt")
    assert [json.loads(classes) for _, classes in told] == [
        [name for name, logit in (("good", good), ("long", long)) if logit > 0] for long, good in logits.tolist()
    ]
    results = json.loads((out / "eval_results.json").read_text())
    assert {"eval_f1_micro", "eval_f1_macro", "eval_subset_accuracy", "eval_agreement"} <= results.keys()
    assert "top_k=None" in ModelCard.load(out / "README.md").text
    assert main(["--output_dir", str(out), "--do_eval", "--use_cpu"]) == 0
    again = json.loads((out / "eval_results.json").read_text())
    assert again["eval_f1_micro"] == results["eval_f1_micro"]


def test_a_teacher_of_several_classes_is_trained_by_the_run(home: Path, tmp_path: Path) -> None:
    """Its head, and that of a student with a checkpoint of its own, are of this task."""
    recipe = {
        "schema": 1,
        "data": {"files": {"train": "any.jsonl"}, "text_columns": ["text"], "label_column": "tags"},
        "teacher": {"model": str(home / "base"), "fine_tune": {"arguments": {"max_steps": 2, "optim": "sgd"}}},
        "student": {"model": str(home / "score")},
        "stages": [{"name": "distil", "objectives": [{"soft_targets": {}}, {"labels": {}}]}],
    }
    path = tmp_path / "several.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    flags = ["--recipe", str(path), *several_classes(tmp_path), "--output_dir", str(tmp_path / "out"), *FAST]
    assert main(flags) == 0
    for folder in (tmp_path / "out", tmp_path / "out" / "stages" / "00-teacher"):
        config = AutoModelForSequenceClassification.from_pretrained(folder).config
        assert (config.problem_type, config.id2label) == ("multi_label_classification", {0: "good", 1: "long"})


def own_rows(home: Path, folder: Path, labels: Sequence[object], teacher: Path, *more: str) -> list[str]:
    """The flags of rows in a CSV file with these labels, again and again, and of tests without any."""
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(tiny_runs.sentence(i)[0], labels[i % len(labels)]) for i in range(30)]
        csv.writer(file).writerows([("text", "label"), *rows])
    tiny_runs.write_jsonl(folder / "test.jsonl", [{"text": tiny_runs.sentence(i)[0]} for i in range(3)])
    return [
        "--train_file", str(folder / "train.csv"), "--test_file", str(folder / "test.jsonl"), "--text_columns", "text",
        "--teacher_name_or_path", str(teacher), "--student_layers", "1", "--output_dir", str(folder / "out"), *FAST,
        *more,
    ]  # fmt: skip


def test_numbers_get_the_names_that_the_teacher_has_for_its_classes(home: Path, tmp_path: Path) -> None:
    teacher = tiny_runs.save_teacher(tmp_path / "teacher", labels=("neg", "pos"))
    steps = ["--do_train", "--do_eval", "--do_predict"]
    assert main(own_rows(home, tmp_path, ("0", "1"), teacher, *steps)) == 0
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.id2label == {0: "neg", 1: "pos"}
    told = predictions(tmp_path / "out" / "predict_results_test.txt")
    assert {label for _, label in told} <= {"neg", "pos"}
    shutil.rmtree(teacher)
    assert main(["--output_dir", str(tmp_path / "out"), "--do_predict", "--use_cpu"]) == 0
    assert predictions(tmp_path / "out" / "predict_results_test.txt") == told


def test_whole_numbers_are_scores_where_the_teacher_gives_one(home: Path, tmp_path: Path) -> None:
    flags = own_rows(home, tmp_path, ("1", "2.0", "5"), home / "score", "--do_train", "--do_eval")
    assert main(flags) == 0
    found = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert {"eval_pearson", "teacher_eval_pearson"} <= found.keys()
    assert main(["--output_dir", str(tmp_path / "out"), "--do_eval", "--use_cpu"]) == 0
    again = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert again["eval_pearson"] == pytest.approx(found["eval_pearson"])


def test_whole_numbers_are_scores_where_it_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = own_rows(home, tmp_path, ("1", "2", "5"), home / "teacher")
    assert main(flags) == 2
    assert "whole numbers are classes, unless --regression (data.regression" in capsys.readouterr().err
    assert main([*flags, "--regression"]) == 2
    assert "a regression, one score" in capsys.readouterr().err
    assert main([*own_rows(home, tmp_path, ("bad", "good"), home / "teacher"), "--regression"]) == 2
    assert "column 'label' holds words or lists, and --regression" in capsys.readouterr().err


def test_a_student_is_evaluated_from_its_folder_alone(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(sst2(home, out)) == 0
    first = json.loads((out / "eval_results.json").read_text())
    assert main(["--output_dir", str(out), "--do_eval", "--do_predict"]) == 0
    again = json.loads((out / "eval_results.json").read_text())
    assert again["eval_accuracy"] == first["eval_accuracy"]
    assert len(predictions(out / "predict_results_sst2.txt")) == 6


def test_mixed_precision_of_the_launcher_acts_as_the_flag_does(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(sst2(home, tmp_path / "plain", "--do_train")) == 0
    assert main(sst2(home, tmp_path / "flag", "--do_train", "--bf16")) == 0
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert main(sst2(home, tmp_path / "launcher", "--do_train")) == 0
    plain, flag, launcher = (
        load_file(tmp_path / name / "model.safetensors") for name in ("plain", "flag", "launcher")
    )
    assert all(torch.equal(flag[name], launcher[name]) for name in flag)
    assert not all(torch.equal(flag[name], plain[name]) for name in flag)
    assert Record.read(tmp_path / "launcher").training_arguments["mixed_precision"] == "bf16"


def test_pushing_needs_a_name_and_a_login_before_anything_is_trained(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    assert main(sst2(home, tmp_path / "out", "--push_to_hub")) == 2
    assert "--hub_model_id owner/name" in capsys.readouterr().err
    assert main(sst2(home, tmp_path / "out", "--push_to_hub", "--hub_model_id", "me/student")) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_finished_student_is_published_as_the_flags_say(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[object, ...]] = []

    class Published:
        url = "https://hub/me/student"

    def publish(folder: Path, repo_id: str, **options: object) -> type[Published]:
        where = {name: options[name] for name in ("private", "revision")}
        sent.append((folder, repo_id, where, (folder / "README.md").exists()))
        return Published

    monkeypatch.setattr(publishing, "get_token", lambda: "a token")
    monkeypatch.setattr(publishing, "prepare_repository", lambda repo_id, **options: repo_id)
    monkeypatch.setattr(publishing, "publish", publish)
    out = tmp_path / "out"
    hub = ["--push_to_hub", "--hub_model_id", "me/student", "--hub_private_repo", "false", "--hub_revision", "new"]
    assert main(sst2(home, out, *hub)) == 0
    assert sent == [(out, "me/student", {"private": False, "revision": "new"}, True)]
    assert "me/student" in (out / "README.md").read_text()


def test_a_defect_keeps_its_traceback(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(script, "run", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(sst2(home, tmp_path / "out"))
