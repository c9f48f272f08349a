"""What trackers see of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers.integrations import integration_utils

from hf_distill.errors import RecipeError
from hf_distill.runs import arguments, measuring, results, run, tracking
from tests import tiny_runs

TWO_STEPS = {"max_steps": 2, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no"}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two stages of two steps each."""
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: pytest.fail("not asked for"))
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    terms = [{"soft_targets": {"temperature": 2.0}, "weight": 0.5}, {"labels": {}, "weight": 0.5}]
    settings = {**TWO_STEPS, "use_cpu": True, "disable_tqdm": True}
    stages = [{"name": name, "objectives": terms, "arguments": settings} for name in ("first", "second")]
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(tiny_runs.write_sst2(tmp_path / "sst2")),
        "teacher": {"model": str(tiny_runs.save_teacher(tmp_path / "teacher"))},
        "student": {"from_layers": {"layers": 1}},
        "stages": stages,
    }


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in the event files of a folder, read as records of a format that TensorBoard documents."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


class StandIn(ModuleType):
    """Takes the place of a tracker's package: notes the runs that are begun, what is logged into each, and that they
    end. Both packages have one run at a time.
    """

    __version__ = "0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: list[dict[str, Any]] = []
        self.run: Any = None
        self.config: Any = ModuleType("config")
        self.config.update = lambda *args, **kwargs: None
        self.config.__class__ = type("Config", (ModuleType,), {"__setitem__": lambda *args: None})
        self.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))

    def init(self, **settings: Any) -> None:
        assert self.run is None, "the run of the stage before is still open"
        self.runs.append({**settings, "logs": []})
        self.run = SimpleNamespace(summary={}, _label=lambda **kwargs: None, id="1", name=settings["name"])

    def log(self, values: dict[str, Any]) -> None:
        assert self.run is not None
        self.runs[-1]["logs"].append(values)

    def finish(self) -> None:
        self.run = None


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> dict[str, StandIn]:
    """wandb and trackio, which need not be installed."""
    found = {}
    for name in ("wandb", "trackio"):
        found[name] = StandIn(name)
        monkeypatch.setitem(sys.modules, name, found[name])
        monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: True)
    for name in ("wandb.sdk", "wandb.sdk.lib", "wandb.sdk.lib.config_util"):
        module: Any = ModuleType(name)
        module.ConfigError = KeyError
        monkeypatch.setitem(sys.modules, name, module)
    return found


def test_each_stage_is_a_run_of_its_own(tmp_path: Path, recipe: dict[str, Any], stand_ins: dict[str, StandIn]) -> None:
    for stage in recipe["stages"]:
        stage["arguments"]["report_to"] = ["tensorboard", "wandb", "trackio"]
    run(recipe, tmp_path / "student", evaluate=False)

    folders = sorted((tmp_path / "student" / tracking.RUNS).iterdir())
    assert [folder.name for folder in folders] == ["01-first", "02-second"]
    for folder in folders:
        curves = scalars(folder)
        assert [step for step, _ in curves["train/loss"]] == [1, 2]
        assert {"train/objective/soft_targets", "train/weighted/labels", "eval/accuracy", "eval/loss"} <= set(curves)
        for name in ("soft_targets", "labels"):
            plain, weighted = (dict(curves[f"train/{kind}/{name}"]) for kind in ("objective", "weighted"))
            assert weighted == pytest.approx({step: 0.5 * value for step, value in plain.items()})

    for stand_in in stand_ins.values():
        assert [each["name"] for each in stand_in.runs] == ["student-01-first", "student-02-second"]
        assert stand_in.run is None
        for each in stand_in.runs:
            logged = [
                values["train/objective/labels"] for values in each["logs"] if "train/objective/labels" in values
            ]
            assert len(logged) == 2
    assert {each["project"] for each in stand_ins["trackio"].runs} == {"hf-distill"}


def test_given_names_are_kept() -> None:
    folder = Path("out/stages/01-distil")
    assert tracking.names({"run_name": "mine", "project": "ours"}, folder) == {
        "run_name": "mine-01-distil",
        "project": "ours",
    }


def test_a_folder_of_the_environment_has_the_stages_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    callback = integration_utils.TensorBoardCallback()
    trainer: Any = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[callback]))
    tracking._place(trainer, tmp_path / "student" / "stages" / "02-second")
    assert Path(callback.logging_dir) == tmp_path / "board" / "02-second"


def test_a_stage_that_fails_ends_its_run_as_well(tmp_path: Path, stand_ins: dict[str, StandIn]) -> None:
    callback = integration_utils.WandbCallback()
    trainer: Any = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[callback]))
    stand_ins["wandb"].init(name="first")
    with pytest.raises(ZeroDivisionError), tracking.followed(trainer, tmp_path / "stages" / "01-first"):
        raise ZeroDivisionError
    assert stand_ins["wandb"].run is None


@pytest.mark.parametrize(
    ("tracker", "words"),
    [("tensorbord", "no tracker 'tensorbord', did you mean 'tensorboard'"), ("wandb", r"hf_distill\[trackers\]")],
)
def test_a_tracker_that_is_not_there(
    tracker: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(RecipeError, match=f"^stage 'distil': report_to: .*{words}"):
        arguments.training_arguments({"use_cpu": True, "report_to": tracker}, tmp_path, 0, "stage 'distil'")


def test_no_tracker_is_the_default(tmp_path: Path) -> None:
    assert arguments.training_arguments({"use_cpu": True}, tmp_path, 0, "stage").report_to == []
    given = {"use_cpu": True, "report_to": "tensorboard"}
    assert arguments.evaluation_arguments(given, tmp_path, 0, "evaluation").report_to == []
