"""`distill_ner` from the command line to the files."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification

from hf_distill.commands import main as commands
from hf_distill.commands.ner import main
from hf_distill.evaluation.entities import EntityMetric
from hf_distill.hub.record import Record
from hf_distill.runs import stages, training
from tests import tiny_runs, tiny_tasks

ROOT = Path(__file__).parents[2]
FAST = ["--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]
TAGS = ",".join(tiny_tasks.TAGS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tagger` (a teacher), `turned` (the same with its tags in another order), and the files `tagged`."""
    folder = tmp_path_factory.mktemp("ner")
    tiny_tasks.save_tagger(folder / "tagger")
    tiny_tasks.save_tagger(folder / "three", tags=("O", "B-GOOD", "I-GOOD"))
    tiny_tasks.write_tagged(folder / "tagged")
    turned = AutoModelForTokenClassification.from_pretrained(folder / "tagger")
    with torch.no_grad():
        for parameter in (turned.classifier.weight, turned.classifier.bias):
            parameter.copy_(parameter.flip(0))
    names = list(reversed(tiny_tasks.TAGS))
    turned.config.id2label, turned.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    turned.save_pretrained(folder / "turned")
    tiny_runs.tokenizer().save_pretrained(folder / "turned")
    return folder


def flags(place: Path, out: Path, *more: str, teacher: str = "tagger") -> list[str]:
    data = place / "tagged"
    return [
        "--train_file", str(data / "train.jsonl"), "--validation_file", str(data / "validation.jsonl"),
        "--class_names", TAGS, "--teacher_name_or_path", str(place / teacher), "--student_layers", "1",
        "--max_seq_length", "24", "--output_dir", str(out), *FAST, *more,
    ]  # fmt: skip


def tags_of(model: Path, sentences: list[list[str]]) -> list[list[str]]:
    """The tags of sentences, read one by one; each of their words is one piece."""
    student = AutoModelForTokenClassification.from_pretrained(model)
    found = []
    for tokens in sentences:
        with torch.no_grad():
            logits = student(**tiny_runs.tokenizer()(" ".join(tokens), return_tensors="pt")).logits[0, 1:-1]
        found.append([student.config.id2label[i] for i in logits.argmax(-1).tolist()])
    return found


def test_from_flags_to_predictions_with_a_control(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    test = ["--test_file", str(place / "tagged" / "test.jsonl")]
    assert main(flags(place, out, *test, "--do_train", "--do_eval", "--do_predict", "--control")) == 0
    shown = capsys.readouterr().out
    assert "f1 [95 %]" in shown
    assert "Student against control: f1 " in shown
    found = json.loads((out / "eval_results.json").read_text())
    rows = tiny_tasks.tagged_rows(9, start=24)
    ours = tags_of(out, [row["tokens"] for row in rows])
    golden = [[tiny_tasks.TAGS[tag] for tag in row["ner_tags"]] for row in rows]
    expected = EntityMetric().compute(predictions=ours, references=golden)
    for name in ("f1", "precision", "recall", "accuracy"):
        assert found[f"eval_{name}"] == pytest.approx(expected[f"overall_{name}"], abs=1e-12)
    theirs = tags_of(place / "tagger", [row["tokens"] for row in rows])
    pairs = [(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    assert found["eval_agreement"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert {"eval_calibration_error", "control_eval_f1", "teacher_eval_loss", "eval_samples"} <= found.keys()
    lines = (out / "predict_results_test.txt").read_text().splitlines()
    predicted = tags_of(out, [row["tokens"] for row in tiny_tasks.tagged_rows(4, start=100)])
    assert [line.split(" ") for line in lines] == predicted
    record = Record.read(out)
    assert (record.task, record.data.sizes) == ("token_classification", {"train": 24, "validation": 9, "test": 4})
    assert AutoModelForTokenClassification.from_pretrained(out).config.label2id == {
        name: i for i, name in enumerate(tiny_tasks.TAGS)
    }


def test_the_order_of_a_teachers_tags_makes_no_difference(place: Path, tmp_path: Path) -> None:
    sgd = ["--optim", "sgd", "--learning_rate", "0.5"]
    results = []
    for teacher in ("tagger", "turned"):
        assert main(flags(place, tmp_path / teacher, *sgd, teacher=teacher)) == 0
        results.append(json.loads((tmp_path / teacher / "eval_results.json").read_text()))
    for name in ("eval_f1", "teacher_eval_f1", "eval_accuracy", "eval_loss", "eval_agreement"):
        assert results[0][name] == pytest.approx(results[1][name], abs=1e-6), name
    straight, turned = (load_file(tmp_path / name / "model.safetensors") for name in ("tagger", "turned"))
    torch.testing.assert_close(turned["classifier.weight"].flip(0), straight["classifier.weight"], rtol=0, atol=1e-6)


def test_tags_as_names_and_soft_targets_on_every_token(place: Path, tmp_path: Path) -> None:
    """Names alone, in other columns; all tokens but the special ones count where an objective asks for all."""
    rows = [
        {"words": row["tokens"], "names": [tiny_tasks.TAGS[tag] for tag in row["ner_tags"]]}
        for row in tiny_tasks.tagged_rows(20)
    ]
    path = tiny_runs.write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""schema: 1
data:
  files: {{train: {path}}}
  token_classification: {{tokens_column: words, tags_column: names, label_all_tokens: true}}
  split: {{validation: 0.2, test: 0.2}}
teacher: {{model: {place / "tagger"}}}
student: {{from_layers: {{layers: 1}}}}
stages:
  - name: distil
    objectives: [{{soft_targets: {{tokens: all}}}}, {{labels: {{}}}}]
    arguments: {{num_train_epochs: 1, use_cpu: true, disable_tqdm: true}}
"""
    )
    assert main(["--recipe", str(recipe), "--output_dir", str(tmp_path / "out"), "--use_cpu"]) == 0
    found = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert {"eval_f1", "test_f1", "teacher_test_f1", "test_agreement"} <= found.keys()
    assert Record.read(tmp_path / "out").data.sizes == {"train": 12, "validation": 4, "test": 4}


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
    for name in ("stage.json", "model.safetensors", "checkpoint-6/optimizer.pt"):
        (stage / name).unlink()
    monkeypatch.setattr(training, "train_stage", train_stage)
    assert main(flags(place, broken, *more)) == 0
    for name in (".", "stages/control"):
        one, other = (load_file(folder / name / "model.safetensors") for folder in (whole, broken))
        assert all(torch.equal(one[key], other[key]) for key in one)


def rows_with(folder: Path, **wrong: object) -> list[str]:
    rows = tiny_tasks.tagged_rows(8)
    path = tiny_runs.write_jsonl(folder / "rows.jsonl", [*rows[:-1], {**rows[-1], **wrong}])
    return ["--train_file", str(path), "--class_names", TAGS]


def empty(folder: Path) -> list[str]:
    (folder / "empty.jsonl").write_text("")
    return ["--train_file", str(folder / "empty.jsonl")]


CASES: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "missing column": (
        lambda place, folder: [*rows_with(folder), "--label_column_name", "pos_tags"],
        "no column 'pos_tags'",
    ),
    "another length": (
        lambda place, folder: rows_with(folder, tokens=["good"], ner_tags=[1, 0]),
        "2 tags for 1 tokens",
    ),
    "out of range": (
        lambda place, folder: rows_with(folder, tokens=["good"], ner_tags=[5]),
        "line 8, column 'ner_tags': unknown tag 5 (int); the numbers go from 0 to 4",
    ),
    "numbers without names": (lambda place, folder: rows_with(folder)[:2], "give --class_names (tag_names in"),
    "empty file": (lambda place, folder: empty(folder), "holds no rows"),
    "teacher of some of the tags": (
        lambda place, folder: [*rows_with(folder), "--teacher_name_or_path", str(place / "three")],
        "the student has 3 labels (O, B-GOOD, I-GOOD), the task 5 labels (O, B-GOOD, I-GOOD, B-BAD, I-BAD): it was "
        "not trained for this task. Give a student that was, or let its head grow (student: {grow_labels: {names: "
        "[B-BAD, I-BAD]}}).",
    ),
    "teacher without a head": (
        lambda place, folder: [
            *rows_with(folder), "--teacher_name_or_path", str(tiny_runs.save_base(folder / "base")),
        ],
        "has no weights for classifier",
    ),
    "nothing to predict": (lambda place, folder: [*rows_with(folder), "--do_train", "--do_predict"], "no test split"),
    "unknown flag": (lambda place, folder: ["--text_column", "x"], "did you mean --text_column_name"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_message_and_nothing_written(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, words = CASES[name]
    out = tmp_path / "out"
    models = ["--teacher_name_or_path", str(place / "tagger"), "--student_layers", "1", "--use_cpu"]
    assert main([*models, *case(place, tmp_path), "--max_seq_length", "24", "--output_dir", str(out)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert not out.exists()


def test_the_script_and_the_command_are_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands.main(["ner", "--label_colum_name", "x"]) == 2
    assert "did you mean --label_column_name" in capsys.readouterr().err
    script = str(ROOT / "scripts" / "distill_ner.py")
    monkeypatch.setattr(sys, "argv", [script, "--train_file", "none.jsonl"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err.startswith("error: command line: there is no teacher")
