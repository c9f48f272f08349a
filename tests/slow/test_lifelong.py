"""Recipes of students that learn new labels, or go on with adapters, from the file to what is left in the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_distill.data.exemplars import Exemplar, write_exemplars
from hf_distill.errors import IncompatiblePair, RecipeError
from hf_distill.runs import run
from hf_distill.runs.stages import StageTrainer
from tests import tiny_runs

pytestmark = pytest.mark.slow

OLD, NEW = ("bad", "good"), ("film", "plot")
ARGUMENTS = {
    "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True,
    "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no",
}  # fmt: skip
KEEPING = [{"labels": {}}, {"learning_without_forgetting": {}}]


def text(number: int, label: str) -> str:
    return f"the {label} is {tiny_runs.NEUTRAL[number % 10]} {label}"


def rows(number: int, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"text": text(i, labels[i % len(labels)]), "label": labels[i % len(labels)]} for i in range(number)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "before", OLD, dropout=0.0)
    tiny_runs.save_teacher(folder / "expert", NEW, seed=4, dropout=0.0)
    tiny_runs.write_jsonl(folder / "new.jsonl", rows(16, NEW))
    tiny_runs.write_jsonl(folder / "all.jsonl", rows(16, (*OLD, *NEW)))
    chosen = [Exemplar(i, {"text": text(i, OLD[i % 2])}, OLD[i % 2]) for i in range(4)]
    write_exemplars(folder / "exemplars.jsonl", chosen)
    return folder


def recipe(home: Path, *stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    data = {
        "files": {"train": str(home / "new.jsonl"), "validation": str(home / "all.jsonl")},
        "text_columns": ["text"],
        "label_column": "label",
        "label_names": [*OLD, *NEW],
    }
    made = {
        "schema": 1,
        "data": data | changes.pop("data", {}),
        "max_length": 16,
        "teacher": {"model": str(home / "before")},
        "student": {"grow_labels": {"names": [*NEW]}},
        "stages": [{"name": f"stage-{i}", "arguments": ARGUMENTS} | each for i, each in enumerate(stages, start=1)],
    }
    return made | changes


def old_accuracy(folder: Path) -> float:
    """Of the rows with old labels, those on which the higher of the two old logits is the right one."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer, right = tiny_runs.tokenizer(), []
    with torch.no_grad():
        for row in (row for row in rows(16, (*OLD, *NEW)) if row["label"] in OLD):
            inputs = tokenizer(row["text"], return_tensors="pt")
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0]
            right.append(bool(logits[model.config.label2id[row["label"]]] >= logits[:2].max()))
    return sum(right) / len(right)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_new_labels_in_two_stages(home: Path, tmp_path: Path) -> None:
    first = {"objectives": [{"labels": {"classes": "new"}}], "train": [{"part": "head"}]}
    result = run(recipe(home, first, {"objectives": KEEPING}), tmp_path / "out")
    before, warm = weights(home / "before"), weights(tmp_path / "out/stages/01-stage-1")
    assert all(torch.equal(tensor, warm[name][: len(tensor)]) for name, tensor in before.items())
    found = json.loads((tmp_path / "out/all_results.json").read_text(encoding="utf-8"))
    assert found["teacher_eval_old_labels_accuracy"] == old_accuracy(home / "before")
    assert found["eval_old_labels_accuracy"] == old_accuracy(tmp_path / "out")
    assert any(note.startswith("Old labels: accuracy between these on their rows, teacher ") for note in result.notes)
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert [config["id2label"][str(i)] for i in range(4)] == [*OLD, *NEW]


def test_answers_of_before_may_be_written_down(home: Path, tmp_path: Path) -> None:
    """A cache of a teacher that has some labels alone gives what the teacher gives."""
    for name, cache in (("plain", {}), ("cached", {"cache": {"codec": "float32"}})):
        teacher = {"model": str(home / "before")} | cache
        run(recipe(home, {"objectives": KEEPING}, teacher=teacher), tmp_path / name, evaluate=False)
    plain, cached = weights(tmp_path / "plain"), weights(tmp_path / "cached")
    assert (tmp_path / "cached/stages/teacher-cache").is_dir()
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=0, atol=2e-6)


def test_an_expert_and_exemplars(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Exemplars are trained on, also where rows are limited, and stay where they are."""
    members = {name: {"model": str(home / place)} for name, place in (("previous", "before"), ("expert", "expert"))}
    terms = [{"learning_without_forgetting": {}, "on": name} for name in ("expert", "previous")]
    changes: dict[str, Any] = {"teacher": {"ensemble": {"members": members}}, "max_samples": {"train": 8}}
    run(recipe(home, {"objectives": terms}, **changes), tmp_path / "without", evaluate=False)
    assert any("there are no exemplars of the old ones" in line for line in caplog.messages)
    caplog.clear()
    made = recipe(home, {"objectives": terms}, data={"exemplars": str(home / "exemplars.jsonl")}, **changes)
    run(made, tmp_path / "with", evaluate=False)
    assert not any("exemplars" in line for line in caplog.messages)
    record = json.loads((tmp_path / "with/distillation.json").read_text(encoding="utf-8"))
    assert record["data"]["sizes"]["train"] == 8
    assert "exemplars" in record["data"]["sources"]
    assert str(home) not in (tmp_path / "with/distillation.json").read_text(encoding="utf-8")
    assert any(
        not torch.equal(tensor, weights(tmp_path / "without")[name])
        for name, tensor in weights(tmp_path / "with").items()
    )


def test_adapters_are_merged_and_a_broken_stage_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"files": {name: str(home / "new.jsonl") for name in ("train", "validation")}, "label_names": [*NEW]}
    stage = {"objectives": KEEPING, "lora": {"r": 2, "target_modules": ["query"]}}
    settings: dict[str, Any] = {
        "data": data,
        "teacher": {"adapter_off": {}},
        "student": {"model": str(home / "expert")},
    }
    made = recipe(home, stage, stage, control=True, **settings)
    result = run(made, tmp_path / "whole")
    assert {summary.role for summary in result.runs} == {"student", "control"}
    before, after = weights(home / "expert"), weights(tmp_path / "whole")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert before.keys() == after.keys()
    assert changed
    assert all("query.weight" in name for name in changed)
    step = StageTrainer.training_step
    steps = []

    def broken(trainer: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        steps.append(trainer)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StageTrainer, "training_step", broken)
        with pytest.raises(KeyboardInterrupt):
            run(made, tmp_path / "parts", evaluate=False)
    run(made, tmp_path / "parts", evaluate=False)
    assert all(torch.equal(tensor, weights(tmp_path / "parts")[name]) for name, tensor in after.items())


def test_a_head_is_trained_before_adapters_that_keep_to_it(home: Path, tmp_path: Path) -> None:
    """A stage of labels alone needs no teacher, and so no adapters; the base has no head, and this is how it gets
    one."""
    tiny_runs.save_base(tmp_path / "base")
    data = {"files": {name: str(home / "new.jsonl") for name in ("train", "validation")}, "label_names": [*NEW]}
    settings: dict[str, Any] = {"teacher": {"adapter_off": {}}, "student": {"model": str(tmp_path / "base")}}
    head = {"objectives": [{"labels": {}}], "train": [{"part": "head"}]}
    kept = {"objectives": KEEPING, "lora": {"r": 2, "target_modules": ["query"]}}
    run(recipe(home, head, kept, data=data, **settings), tmp_path / "out", evaluate=False)
    first, last = weights(tmp_path / "out/stages/01-stage-1"), weights(tmp_path / "out")
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed
    assert all("query.weight" in name for name in changed)


def test_adapters_that_cannot_be(home: Path, tmp_path: Path) -> None:
    tiny_runs.save_base(tmp_path / "base")
    data = {"files": {name: str(home / "new.jsonl") for name in ("train", "validation")}, "label_names": [*NEW]}
    settings: dict[str, Any] = {"data": data, "teacher": {"adapter_off": {}}}
    stage = {"objectives": KEEPING, "lora": {"target_modules": ["query"]}}
    with pytest.raises(IncompatiblePair, match=r"has no weights for classifier"):
        run(recipe(home, stage, student={"model": str(tmp_path / "base")}, **settings), tmp_path / "out")
    new_head = stage | {"lora": {"target_modules": ["query"], "modules_to_save": ["classifier"]}}
    with pytest.raises(IncompatiblePair, match=r"saves classifier whole"):
        run(recipe(home, new_head, student={"model": str(tmp_path / "base")}, **settings), tmp_path / "out")
    nowhere = stage | {"lora": {"target_modules": ["quary"]}}
    with pytest.raises(RecipeError, match=r"stage 'stage-1': lora: Target modules .*quary"):
        run(recipe(home, nowhere, student={"model": str(home / "expert")}, **settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()
