"""Whole searches at tiny size: broken off at every step and gone on with, and in forms that are exported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency
from hf_distill.hub.onnx import OnnxModel
from hf_distill.loading import load_model, load_tokenizer
from hf_distill.recipe import Recipe
from hf_distill.search import Budget, Found, Settings, clock, find, finding, shapes, trials
from hf_distill.search.budget import Cost
from hf_distill.search.clock import Clock
from hf_distill.search.forms import COMPILED, FLOAT32, Form, Ready, ready
from tests import tiny_models, tiny_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

FAST = {"use_cpu": True, "num_train_epochs": 1, "per_device_train_batch_size": 8, "disable_tqdm": True}
AUTO = "AutoModelForSequenceClassification"


def recipes(folder: Path, *names: str) -> dict[str, Recipe]:
    changes = {"teacher.model": str(folder / "teacher"), "dataset_dir": str(folder / "sst2")}
    found = {name: Recipe.load(f"comparisons/{name}") for name in names}
    return {
        name: recipe.override(
            {**changes, **{f"stages.{i}.arguments": {**s.arguments, **FAST} for i, s in enumerate(recipe.stages)}}
        )
        for name, recipe in found.items()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_runs.save_teacher(tmp_path / "teacher", layers=2)
    tiny_runs.write_sst2(tmp_path / "sst2", train=120, validation=20)
    return tmp_path


class BrokenOff(BaseException):
    """As a process that is killed."""


class Watch:
    """Counts what is done, and breaks off before the call `when` of a kind."""

    def __init__(self) -> None:
        self.kind, self.when = "", 0
        self.calls: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    @contextmanager
    def doing(self, kind: str, name: str) -> Iterator[None]:
        self.calls[kind] += 1
        if (kind, self.calls[kind]) == (self.kind, self.when):
            raise BrokenOff
        yield
        self.done[f"{kind}: {name}"] += 1


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Times are made up: two milliseconds and one for each layer of a model, half of that in bfloat16."""
    found = Watch()

    def cost(self: Clock, made: Ready, form: Form) -> Cost:
        params = sum(parameter.numel() for parameter in made.model.parameters())
        with found.doing("cost", f"{params} {form.name} {next(iter(made.model.parameters())).sum().item():.6f}"):
            time = (2.0 + made.model.config.num_hidden_layers) * made.size_bytes / params / 4
            latency = Latency(time, time, time, 1.0, 1, "cpu", 64)
            return Cost(latency=latency, teacher_ms=5.0, size_bytes=made.size_bytes, params=params)

    def watched(kind: str, run: Any) -> Any:
        def running(recipe: Recipe, output_dir: Path, **settings: Any) -> Any:
            with found.doing(kind, str(output_dir)):
                return run(recipe, output_dir, **settings)

        return running

    monkeypatch.setattr(Clock, "cost", cost)
    monkeypatch.setattr(trials, "run", watched("trial", trials.run))
    monkeypatch.setattr(finding, "run", watched("final", finding.run))
    return found


def search(folder: Path, out: str = "out") -> Found:
    settings = Settings(1e6, keep=2, learning_rate_scales=(1.0,), runtimes=("eager",))
    return find(recipes(folder, "soft_targets", "pkd"), Budget(latency_share=0.5), folder / out, settings)


@pytest.mark.draws
def test_a_search_that_is_broken_off_does_nothing_twice(folder: Path, watch: Watch) -> None:
    for watch.kind, watch.when in (("cost", 5), ("trial", 1), ("trial", 3), ("final", 1), ("cost", 3)):
        watch.calls.clear()
        with pytest.raises(BrokenOff):
            search(folder)
    watch.kind = ""
    found = search(folder)
    measured = json.loads((folder / "out/costs.json").read_text())["costs"]
    assert {number for name, number in watch.done.items() if name.startswith("trial")} == {1}
    assert sum(number for name, number in watch.done.items() if name.startswith("cost")) == len(measured) + len(
        found.points
    )
    before = dict(watch.done)
    again = search(folder)
    done = {name: number for name, number in watch.done.items() if number != before.get(name)}
    assert list(done) == [f"final: {folder / 'out/final'}"]  # a finished run, which trains nothing
    assert again.points == found.points
    report = json.loads((folder / "out/auto.json").read_text())
    assert report["kept"] == ["2x16 bfloat16 eager", "2x16-18 bfloat16 eager"]
    assert found.fits
    assert report["fits"]
    assert {run["outcome"] for run in report["trials"]} <= {"finished", "pruned", "refused"}
    refused = [run for run in report["trials"] if run["outcome"] == "refused"]
    assert all("pkd" in run["runs"][0]["message"] for run in refused)
    assert {(point["role"], point["name"]) for point in report["points"]} >= {
        ("teacher", "float32 eager"),
        ("student", "bfloat16 eager"),
        ("control", "bfloat16 eager"),
        ("control", "float32 eager"),
    }
    assert (folder / "out/auto.png").read_bytes().startswith(b"\x89PNG")
    exported = load_model(str(found.export), AUTO, role="student", dtype=torch.bfloat16)
    trained = load_model(str(folder / "out/final"), AUTO, role="student", dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(exported.parameters(), trained.parameters(), strict=True))
    check_trials(folder)


def check_trials(folder: Path) -> None:
    """They are ordinary run folders, on rows of the training file alone."""
    places = [path for path in (folder / "out/trials").glob("*/*-rows") if (path / "config.json").exists()]
    assert places
    for place in places:
        assert (place / "distillation.json").is_file()
        recipe = json.loads((place / "stages/run.json").read_text())["recipe"]
        assert recipe["dataset_dir"] == str(folder / "out/data")
    lines = [(folder / f"out/data/{name}.jsonl").read_text().splitlines() for name in ("train", "validation")]
    rows = [json.loads(line) for file in lines for line in file]
    assert Counter(row["sentence"] for row in rows) == Counter(row["sentence"] for row in tiny_runs.sst2_rows(120))


def test_a_budget_that_nothing_meets_ends_before_any_training(folder: Path, watch: Watch) -> None:
    settings = Settings(1e6, runtimes=("eager",))
    with pytest.raises(DistillationError, match="The nearest is 1x"):
        find(recipes(folder, "soft_targets"), Budget(latency_ms=0.1), folder / "out", settings)
    assert {name.partition(":")[0] for name in watch.done} == {"cost"}
    costs = watch.calls["cost"]
    with pytest.raises(DistillationError, match="The nearest is 1x"):
        find(recipes(folder, "soft_targets"), Budget(latency_ms=0.2), folder / "out", settings)
    assert watch.calls["cost"] == costs


def test_a_student_for_onnx_runtime_by_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SECONDS", 0.05)
    monkeypatch.setattr(shapes, "WIDTHS", ((1, 1), (1 / 2, 1 / 2)))
    tiny_runs.save_teacher(folder / "teacher", layers=1)
    settings = Settings(1e6, keep=1, learning_rate_scales=(1.0,), runtimes=("onnx",))
    found = find(recipes(folder, "soft_targets"), Budget(size_mb=10.0), folder / "out", settings)
    report = json.loads((folder / "out/auto.json").read_text())
    assert {each["form"] for each in report["measured"]} == {"float32 onnx", "int8 onnx"}
    assert report["form"] == "float32 onnx"  # both fit
    graph = OnnxModel(next((found.export / "onnx").glob("*.onnx")))
    trained = load_model(str(folder / "out/final"), AUTO, role="student").eval()
    batch = load_tokenizer(str(found.export), role="student")(
        ["a fine film", "dull"], padding=True, return_tensors="pt"
    )
    assert torch.allclose(graph(**batch).logits, trained(**batch).logits, atol=1e-4)
    assert not list((folder / "out").glob(".*form*"))


def test_a_compiled_model_answers_as_it_does_otherwise() -> None:
    model = tiny_models.tiny("bert", tiny_models.CLASSIFIER, layers=1)
    made = ready(model, None, Form(FLOAT32, COMPILED), torch.device("cpu"), Path())  # type: ignore[arg-type]
    batch = tiny_models.batch("bert")
    with torch.inference_mode():
        assert torch.allclose(made.call(**batch).logits, model(**batch).logits, atol=1e-5)
