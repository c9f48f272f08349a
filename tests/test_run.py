"""Whole runs with tiny models: what is trained, from what, and what is left on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill.errors import DistillationError, IncompatiblePair, RecipeError
from hf_distill.evaluation.findings import Findings
from hf_distill.evaluation.latency import Latency
from hf_distill.hub.record import Record
from hf_distill.recipe import Recipe
from hf_distill.runs import RunResult, measuring, results, run, running, stages, training
from tests import tiny_runs

QUICK = {"per_device_train_batch_size": 8, "num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
STILL = {**QUICK, "learning_rate": 0.0}
SOFT: list[dict[str, Any]] = [{"soft_targets": {"temperature": 2.0}, "weight": 0.5}, {"labels": {}, "weight": 0.5}]
PROJECTED = [{"hidden_mse": {"layer_map": "final"}, "weight": 1.0, "name": "wide"}, {"labels": {}}]


@pytest.fixture(autouse=True)
def _no_pictures_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.save_base(folder / "base")
    (folder / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    tiny_runs.save_base(folder / "narrow", seed=3, hidden=8, layers=1)
    tiny_runs.write_sst2(folder / "sst2")
    return folder


def recipe(home: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of one stage on SST-2 with a student of one layer."""
    made = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": SOFT, "arguments": QUICK}],
    }
    return made | changes


def stage(
    name: str, objectives: list[dict[str, Any]], arguments: Mapping[str, Any] = QUICK, **more: Any
) -> dict[str, Any]:
    return {"name": name, "objectives": objectives, "arguments": dict(arguments), **more}


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def long_recipe(home: Path) -> dict[str, Any]:
    """A teacher that is trained first, two stages that learn projections, and a control."""
    two = [stage("first", PROJECTED), stage("second", PROJECTED, {**QUICK, "num_train_epochs": 2})]
    teacher = {"model": str(home / "base"), "fine_tune": {"arguments": QUICK}}
    return recipe(home, teacher=teacher, student={"model": str(home / "narrow")}, stages=two, control=True)


@pytest.fixture(scope="module")
def finished(long_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "measure_latency", lambda *args, **kwargs: Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4))
        patch.setattr(results, "write_report", lambda *args: [])
        return folder, run(long_recipe, folder, command=["distill_glue.py", "--recipe", "mine.yaml"])


def test_a_run_leaves_everything_that_a_student_is_known_by(finished: tuple[Path, RunResult]) -> None:
    folder, result = finished
    left = {path.name for path in folder.iterdir()}
    assert left >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        "distillation.json", "distillation.safetensors", "all_results.json", "train_results.json", "eval_results.json",
        "trainer_state.json", "stages",
    }  # fmt: skip
    assert {path.name for path in (folder / "stages").iterdir() if path.is_dir()} == {
        "00-teacher", "01-first", "02-second", "control",
    }  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.suffix == ".bin" or ".part" in path.name]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.num_hidden_layers == 1
    assert (
        AutoTokenizer.from_pretrained(folder)("good film")["input_ids"]
        == tiny_runs.tokenizer()("good film")["input_ids"]
    )
    assert same(weights(folder), weights(folder / "stages" / "02-second"))
    assert [run.role for run in result.runs] == ["teacher", "student", "control"]
    found = Findings.read(folder / "report" / "data.json")
    assert found is not None
    assert found.parting is not None
    assert found.parting.total == 10
    assert found.parting.alike / 10 == pytest.approx(result.run("student").agreement)
    assert found.reliability["control"].error == pytest.approx(result.run("control").calibration_error)
    assert found.likeness is not None
    assert found.likeness_before is not None
    assert found.likeness_before.cka != found.likeness.cka
    assert found.attention is not None


def test_layers_before_training_are_those_of_the_start(home: Path, tmp_path: Path) -> None:
    """The student begins with the teacher's embeddings and its first layer."""
    run(recipe(home, student={"from_layers": {"layers": [1]}}), tmp_path / "out")
    found = Findings.read(tmp_path / "out" / "report" / "data.json")
    assert found is not None
    assert found.likeness_before is not None
    assert [found.likeness_before.cka[layer][layer] for layer in (0, 1)] == [1.0, 1.0]


def test_the_numbers_are_the_same_wherever_they_stand(finished: tuple[Path, RunResult]) -> None:
    folder, result = finished
    every, evaluated = (json.loads((folder / f"{name}_results.json").read_text()) for name in ("all", "eval"))
    student = result.run("student")
    assert evaluated["eval_accuracy"] == student.metrics["accuracy"] == every["eval_accuracy"]
    assert evaluated["eval_agreement"] == student.agreement
    assert evaluated["teacher_eval_accuracy"] == result.run("teacher").metrics["accuracy"]
    assert evaluated["control_eval_accuracy"] == result.run("control").metrics["accuracy"]
    assert evaluated["eval_samples"] == 10
    assert every["train_loss"] == json.loads((folder / "train_results.json").read_text())["train_loss"]
    assert result.split == "validation"
    for name in ("teacher", "student", "control"):
        assert name in result.table
    record = Record.read(folder)
    assert record.metrics["eval_accuracy"] == evaluated["eval_accuracy"]
    assert record.control_metrics["eval_accuracy"] == evaluated["control_eval_accuracy"]
    assert [facts.name for facts in record.objectives] == [
        "first.wide",
        "first.labels",
        "second.wide",
        "second.labels",
    ]
    assert record.layer_maps == {"first.wide": [(1, 2)], "second.wide": [(1, 2)]}
    assert record.steps == 3 + 6
    assert {side: speed.milliseconds_per_sentence for side, speed in record.speeds.items()} == {
        "teacher": 1.0,
        "student": 1.0,
        "control": 1.0,
    }
    assert record.emissions is None
    assert record.teacher is not None
    assert record.teacher.license == "mit"
    trained = (folder / "stages" / "00-teacher" / "model.safetensors").read_bytes()
    assert record.teacher.files["model.safetensors"] == hashlib.sha256(trained).hexdigest()
    assert record.data.sizes == {"train": 24, "validation": 10, "test": 6}
    assert record.command == ["distill_glue.py", "--recipe", "mine.yaml"]


def test_the_accuracy_is_that_of_the_model_on_disk(finished: tuple[Path, RunResult]) -> None:
    folder, result = finished
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    rows = tiny_runs.sst2_rows(10, start=24)
    batch = tiny_runs.tokenizer()([row["sentence"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).logits.argmax(-1).tolist()
    assert result.metrics["eval_accuracy"] == sum(a == row["label"] for a, row in zip(found, rows, strict=True)) / 10


def test_a_finished_run_is_shown_and_not_trained(
    finished: tuple[Path, RunResult], long_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = finished

    def refuse(*args: Any) -> None:
        raise AssertionError("a finished run loads no model")

    monkeypatch.setattr(running, "prepare", refuse)
    again = run(long_recipe, folder)
    assert again.runs == result.runs
    assert again.table == result.table
    assert again.metrics == result.metrics


def test_a_broken_off_run_ends_like_one_that_was_not(
    finished: tuple[Path, RunResult], long_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second stage, its last checkpoint torn: the one before is taken, and the weights are the same."""
    whole, _ = finished
    folder = tmp_path / "out"
    train_stage = stages.train_stage

    def killed(job: Any, *args: Any) -> None:
        train_stage(job, *args)
        if job.folder.name == "02-second":
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        run(long_recipe, folder)
    second = folder / "stages" / "02-second"
    for name in ("stage.json", "model.safetensors", "checkpoint-6/optimizer.pt"):
        (second / name).unlink()
    assert not (folder / "model.safetensors").exists()
    started: list[tuple[str, Any]] = []
    train = stages.StageTrainer.train

    def noted(trainer: Any, resume_from_checkpoint: Any = None) -> Any:
        started.append(
            (Path(trainer.args.output_dir).name, resume_from_checkpoint and Path(resume_from_checkpoint).name)
        )
        return train(trainer, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(training, "train_stage", train_stage)
    monkeypatch.setattr(stages.StageTrainer, "train", noted)
    run(long_recipe, folder)
    assert started == [("02-second", "checkpoint-3"), ("control", None)]
    assert same(weights(folder), weights(whole))
    assert same(load_file(folder / "distillation.safetensors"), load_file(whole / "distillation.safetensors"))
    assert same(weights(folder / "stages" / "control"), weights(whole / "stages" / "control"))


def test_a_stage_takes_over_the_student_and_what_terms_learned(home: Path, tmp_path: Path) -> None:
    two = [stage("first", PROJECTED), stage("second", [*PROJECTED, SOFT[0]], STILL)]
    run(recipe(home, student={"model": str(home / "narrow")}, stages=two), tmp_path / "out", evaluate=False)
    first, second = tmp_path / "out" / "stages" / "01-first", tmp_path / "out" / "stages" / "02-second"
    assert same(weights(first), weights(second))
    learned = load_file(first / "distillation.safetensors")
    assert set(learned) == {"wide.projections.0.weight", "wide.projections.0.bias"}
    assert same(learned, load_file(second / "distillation.safetensors"))


def test_a_term_that_learned_other_things_is_refused() -> None:
    class Wide(nn.Linear):
        takes = ()

    objectives = nn.ModuleDict({"wide": Wide(2, 3)})
    with pytest.raises(IncompatiblePair, match=r"'wide' learned .*\(4, 3\).* and here it learns .*\(3, 2\)"):
        stages.hand_on({"wide.weight": torch.zeros(4, 3), "wide.bias": torch.zeros(4)}, objectives, "stage 'b'")


def test_every_training_of_a_run_reads_batches_within_the_budget(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells: dict[str, list[int]] = {}

    class Watched(stages.StageTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any) -> Any:
            place = Path(self.args.output_dir).name
            cells.setdefault(place, []).append(inputs["input_ids"].numel())
            assert self.optimizer.optimizer.defaults["fused"]
            return super().training_step(model, inputs, *args)

    monkeypatch.setattr(stages, "StageTrainer", Watched)
    budget = {"tokens_per_batch": 48}
    teacher = {"model": str(home / "base"), "fine_tune": {"arguments": QUICK, **budget}}
    stage_ = {**stage("distil", SOFT, QUICK), **budget}
    run(recipe(home, teacher=teacher, stages=[stage_], control=True), tmp_path / "out", evaluate=False)
    assert cells.keys() == {"00-teacher", "01-distil", "control"}
    for found in cells.values():
        assert max(found) <= 48
        assert len(set(found)) > 1
    assert len({len(found) for found in cells.values()}) == 1


def test_a_row_above_the_budget_is_told_before_anything_is_trained(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="tokens_per_batch is 3: it fits no batch"):
        run(recipe(home, stages=[{**stage("distil", SOFT, QUICK), "tokens_per_batch": 3}]), tmp_path / "out")
    assert not (tmp_path / "out" / "stages").exists()


def test_the_control_starts_where_the_student_does(home: Path, tmp_path: Path) -> None:
    """Neither moves at a learning rate of 0; the head of the student is new, so drawn from the seed."""
    still = [stage("distil", SOFT, STILL)]
    run(
        recipe(home, student={"model": str(home / "base")}, stages=still, control=True),
        tmp_path / "out",
        evaluate=False,
    )
    assert same(weights(tmp_path / "out"), weights(tmp_path / "out" / "stages" / "control"))


def test_a_student_is_cut_from_a_half_precision_teacher_at_full_precision(home: Path, tmp_path: Path) -> None:
    teacher = {"model": str(home / "teacher"), "dtype": "bfloat16"}
    made = recipe(home, teacher=teacher, stages=[stage("distil", SOFT, STILL)], control=True)
    run(made, tmp_path / "out", evaluate=False)
    theirs = weights(home / "teacher")
    for folder in (tmp_path / "out", tmp_path / "out" / "stages" / "control"):
        ours = weights(folder)
        assert torch.equal(
            ours["bert.encoder.layer.0.output.dense.weight"], theirs["bert.encoder.layer.1.output.dense.weight"]
        )


def test_a_trained_teacher_is_the_one_the_student_is_cut_from(home: Path, tmp_path: Path) -> None:
    teacher = {"model": str(home / "base"), "fine_tune": {"arguments": QUICK}}
    run(recipe(home, teacher=teacher, stages=[stage("distil", SOFT, STILL)]), tmp_path / "out", evaluate=False)
    trained, student = weights(tmp_path / "out" / "stages" / "00-teacher"), weights(tmp_path / "out")
    assert torch.equal(student["classifier.weight"], trained["classifier.weight"])
    assert not torch.equal(
        trained["bert.encoder.layer.1.output.dense.weight"],
        weights(home / "base")["encoder.layer.1.output.dense.weight"],
    )


def test_only_the_named_parameters_train_and_at_their_rates(home: Path, tmp_path: Path) -> None:
    """One step of SGD without momentum moves a parameter by its rate times its gradient."""
    sgd = {
        **QUICK,
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
    }
    moved = {}
    for scale in (1.0, 0.25):
        groups = [{"parameters": "^classifier", "learning_rate_scale": scale}, {"parameters": "pooler.dense.bias"}]
        folder = tmp_path / str(scale)
        run(recipe(home, stages=[stage("distil", SOFT, sgd, train=groups)]), folder, evaluate=False)
        before = {name: tensor for name, tensor in weights(home / "teacher").items() if "layer" not in name}
        moved[scale] = {name: weights(folder)[name] - tensor for name, tensor in before.items()}
    changed = {name for name, difference in moved[1.0].items() if difference.any()}
    assert changed == {"classifier.weight", "classifier.bias", "bert.pooler.dense.bias"}
    torch.testing.assert_close(moved[0.25]["classifier.weight"], moved[1.0]["classifier.weight"] / 4)
    torch.testing.assert_close(moved[0.25]["bert.pooler.dense.bias"], moved[1.0]["bert.pooler.dense.bias"])


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    made = recipe(home, stages=[stage("distil", SOFT, train=[{"parameters": "^clasifier"}])])
    with pytest.raises(RecipeError, match=r"stage 'distil': train: no parameter of the student matches '\^clasifier'"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stages_", "words"),
    [
        ([stage("distil", [{"hidden_mse": {"layer_map": [[1, 9]]}}])], "teacher layer 9"),
        (
            [stage("a", SOFT), stage("b", SOFT, {**QUICK, "save_strategy": "no", "load_best_model_at_end": True})],
            "stage 'b'",
        ),
        ([stage("distil", SOFT, {**QUICK, "push_to_hub": True})], "--push_to_hub --hub_model_id"),
    ],
)
def test_stages_that_cannot_work_are_refused_before_anything_is_written(
    home: Path, tmp_path: Path, stages_: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(DistillationError, match=words):
        run(recipe(home, stages=stages_), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_order_of_a_teachers_labels_makes_no_difference(home: Path, tmp_path: Path) -> None:
    """The same teacher with its two classes the other way round, and in capitals."""
    turned = AutoModelForSequenceClassification.from_pretrained(home / "teacher")
    with torch.no_grad():
        for parameter in (turned.classifier.weight, turned.classifier.bias):
            parameter.copy_(parameter.flip(0))
    turned.config.id2label, turned.config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    turned.save_pretrained(tmp_path / "turned")
    tiny_runs.tokenizer().save_pretrained(tmp_path / "turned")
    sgd = {**QUICK, "optim": "sgd", "learning_rate": 0.5}
    found = []
    for name, teacher in (("straight", home / "teacher"), ("other", tmp_path / "turned")):
        made = recipe(home, teacher={"model": str(teacher)}, stages=[stage("distil", SOFT, sgd)])
        found.append(run(made, tmp_path / name, predict=True))
    straight, other = found
    assert other.metrics["eval_accuracy"] == straight.metrics["eval_accuracy"]
    assert other.metrics["eval_loss"] == pytest.approx(straight.metrics["eval_loss"], abs=1e-6)
    assert other.run("teacher").metrics == straight.run("teacher").metrics
    assert other.predictions[0].read_text() == straight.predictions[0].read_text()
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config["id2label"] == {"0": "positive", "1": "negative"}
    flipped = weights(tmp_path / "other")["classifier.weight"].flip(0)
    torch.testing.assert_close(flipped, weights(tmp_path / "straight")["classifier.weight"], rtol=0, atol=1e-6)


def test_a_folder_of_another_recipe_or_other_data_is_refused(
    finished: tuple[Path, RunResult], long_recipe: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    with pytest.raises(DistillationError, match=r"another recipe: max_length: 8, was 16.*another output_dir"):
        run({**long_recipe, "max_length": 8}, folder)
    data = tiny_runs.write_sst2(tmp_path / "data", train=8)
    still = recipe(home, dataset_dir=str(data))
    run(still, tmp_path / "out", evaluate=False)
    tiny_runs.write_sst2(data, train=9)
    with pytest.raises(DistillationError, match="data of train: another file than before"):
        run(still, tmp_path / "out")


def test_what_was_not_made_by_a_run_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(DistillationError, match=r"already holds config\.json"):
        run(recipe(home), tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "stages").mkdir(parents=True)
    made = recipe(home)
    identity = {"recipe": Recipe.from_dict(made).to_dict(), "sources": {}}
    (tmp_path / "out" / "stages" / "run.json").write_text(json.dumps(identity))
    with FileLock(tmp_path / "out" / "stages" / ".lock"), pytest.raises(DistillationError, match="another process"):
        run(made, tmp_path / "out")


def test_a_student_is_evaluated_alone(finished: tuple[Path, RunResult], long_recipe: dict[str, Any]) -> None:
    folder, result = finished
    before = (folder / "model.safetensors").stat().st_mtime_ns
    alone = run(long_recipe, folder, train=False)
    assert [each.role for each in alone.runs] == ["student"]
    assert alone.metrics["eval_accuracy"] == result.metrics["eval_accuracy"]
    assert alone.metrics["eval_loss"] == pytest.approx(result.metrics["eval_loss"], abs=1e-6)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(DistillationError, match="holds no student"):
        run({**long_recipe, "student": {"from_layers": {"layers": 1}}}, folder.parent / "empty", train=False)


def test_a_labelled_test_is_what_is_reported_and_nothing_is_chosen_on_it(home: Path, tmp_path: Path) -> None:
    rows = [{"text": row["sentence"], "label": ("no", "yes")[row["label"]]} for row in tiny_runs.sst2_rows(40)]
    train = tiny_runs.write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {
        "files": {"train": str(train)},
        "text_columns": ["text"],
        "label_column": "label",
        "split": {"validation": 0.2, "test": 0.3},
    }
    made = recipe(home, data=data, teacher={"model": str(home / "base"), "fine_tune": {"arguments": QUICK}})
    del made["task"], made["dataset_dir"]
    result = run(made, tmp_path / "out")
    assert result.split == "test"
    assert result.metrics["test_samples"] == 12
    assert result.metrics["eval_samples"] == 8
    assert result.run("student").metrics == {"accuracy": result.metrics["test_accuracy"]}
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    evaluated = [entry["eval_accuracy"] for entry in state["log_history"] if "eval_accuracy" in entry]
    assert evaluated == [result.metrics["eval_accuracy"]]
    assert all(not key.startswith("test") for entry in state["log_history"] for key in entry)


def test_terms_that_cannot_be_handed_on_are_refused_before_anything_is_trained(home: Path, tmp_path: Path) -> None:
    other = [{"hidden_mse": {"layer_map": [[0, 0], [1, 2]]}, "name": "wide"}]
    made = recipe(home, student={"model": str(home / "narrow")}, stages=[stage("a", PROJECTED), stage("b", other)])
    with pytest.raises(IncompatiblePair, match=r"stage 'b': the term 'wide' learned .* in an earlier stage"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
