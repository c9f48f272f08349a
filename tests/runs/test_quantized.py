"""Recipes whose stages quantize the student: what they leave, what they go on from, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hf_distill.errors import RecipeError
from hf_distill.hub.packed import read_packed
from hf_distill.recipe import Recipe
from hf_distill.runs import run
from hf_distill.runs.stages import StageTrainer
from tests import tiny_runs

GRID = {"bits": 2, "bucket_size": 64}
WEIGHT = "bert.encoder.layer.0.output.dense.weight"


def named(weight: str) -> str:
    """What lies beneath a weight, in `distillation.safetensors`."""
    return "student/weights." + weight.replace(".", "/")


LEARNED = named(WEIGHT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher", layers=2, dropout=0.0)
    tiny_runs.write_sst2(folder / "sst2", train=24)
    return folder


def stage(name: str, **more: Any) -> dict[str, Any]:
    arguments = {
        "max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True, "disable_tqdm": True,
        "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2,
    } | more.pop("arguments", {})  # fmt: skip
    return {"name": name, "objectives": [{"soft_targets": {}}, {"labels": {}}], "arguments": arguments, **more}


def recipe(home: Path, *stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": list(stages),
        **more,
    }


def weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def values(weight: Tensor, size: int = 64) -> int:
    """The most different values in a bucket."""
    return max(len(bucket.unique()) for bucket in weight.flatten().split(size))


def test_a_stage_leaves_a_plain_student_on_the_grid_and_its_codes(home: Path, tmp_path: Path) -> None:
    result = run(recipe(home, stage("floats"), stage("bits", quantize_uniform=GRID), control=True), tmp_path)
    plain, floats = weights(tmp_path), weights(tmp_path / "stages" / "01-floats")
    assert plain.keys() == floats.keys()
    assert values(plain[WEIGHT]) <= 4 < values(floats[WEIGHT])
    assert values(plain["classifier.weight"], 1000) > 4
    state = read_packed(tmp_path)
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
    assert not (tmp_path / "stages" / "01-floats" / "quantized.safetensors").exists()
    assert values(weights(tmp_path / "stages" / "control")[WEIGHT]) <= 4
    assert {summary.name for summary in result.runs} == {"teacher", "student", "control"}


def test_stages_take_turns_and_go_on_from_the_floats(home: Path, tmp_path: Path) -> None:
    """Bits, points, bits: the floats of the first are those of the second, and where the third begins."""
    still = {"arguments": {"learning_rate": 0.0}}
    points = stage("points", quantize_points={"points": 3, "bucket_size": 64}, arguments={"learning_rate": 1e-3})
    run(
        recipe(home, stage("bits", quantize_uniform=GRID), points, stage("again", quantize_uniform=GRID, **still)),
        tmp_path,
        evaluate=False,
    )
    folders = [tmp_path / "stages" / name for name in ("01-bits", "02-points", "03-again")]
    beneath = [weights(folder, "distillation") for folder in folders]
    assert torch.equal(beneath[0][LEARNED], beneath[1][LEARNED])
    assert torch.equal(beneath[0][LEARNED], beneath[2][LEARNED])
    assert torch.equal(weights(folders[0])[WEIGHT], weights(folders[2])[WEIGHT])
    assert values(weights(folders[1])[WEIGHT]) <= 3
    assert LEARNED.removesuffix("weight") + "points" in beneath[1]


def test_a_stage_in_floats_forgets_them(home: Path, tmp_path: Path) -> None:
    """It starts from the values on the grid, as a stage behind it that quantizes does from its."""
    still = {"arguments": {"learning_rate": 0.0}}
    stages = [stage("bits", quantize_uniform=GRID), stage("floats"), stage("again", quantize_uniform=GRID, **still)]
    run(recipe(home, *stages), tmp_path, evaluate=False)
    folders = [tmp_path / "stages" / name for name in ("01-bits", "02-floats", "03-again")]
    assert torch.equal(weights(folders[2], "distillation")[LEARNED], weights(folders[1])[WEIGHT])
    assert not (folders[1] / "distillation.safetensors").exists()


def test_an_average_begins_from_the_floats(home: Path, tmp_path: Path) -> None:
    """Where nothing moves, the average is what lies beneath the student, in the second stage as in the first."""
    still = {"quantize_uniform": GRID, "arguments": {"learning_rate": 0.0}}
    teacher = {"moving_average": {"decay": 0.5, "warmup": False}}
    made = recipe(home, stage("bits", **still), stage("again", **still), teacher=teacher)
    run(made | {"student": {"model": str(home / "teacher")}}, tmp_path, evaluate=False)
    for name in ("01-bits", "02-again"):
        folder = tmp_path / "stages" / name
        average = weights(folder, "teacher")[WEIGHT.replace("weight", "parametrizations.weight.original")]
        torch.testing.assert_close(average, weights(folder, "distillation")[LEARNED])


class Stopped(Exception):
    pass


def test_a_broken_run_goes_on_bit_for_bit(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(home, stage("floats"), stage("bits", quantize_uniform={**GRID, "rounding": "stochastic"}))
    run(asked, tmp_path / "whole", evaluate=False)
    train = StageTrainer.training_step

    def stopping(self: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3 and "02-bits" in str(self.args.output_dir):
            raise Stopped
        return train(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", stopping)
    with pytest.raises(Stopped):
        run(asked, tmp_path / "broken", evaluate=False)
    monkeypatch.setattr(StageTrainer, "training_step", train)
    run(asked, tmp_path / "broken", evaluate=False)
    for name in ("model", "distillation", "quantized"):
        whole, broken = weights(tmp_path / "whole", name), weights(tmp_path / "broken", name)
        assert whole.keys() == broken.keys()
        assert all(torch.equal(tensor, broken[key]) for key, tensor in whole.items()), name


def test_parts_train_by_their_plain_names(home: Path, tmp_path: Path) -> None:
    train = [{"parameters": r"output\.dense\.weight$", "learning_rate_scale": 0.5}, {"layers": [0]}]
    run(recipe(home, stage("bits", quantize_uniform=GRID, train=train)), tmp_path, evaluate=False)
    before = weights(home / "teacher")
    beneath = weights(tmp_path, "distillation")
    moved = {
        name: not torch.equal(beneath[named(name)], before[name.replace("layer.0", "layer.1")])
        for name in (
            WEIGHT,
            "bert.encoder.layer.0.intermediate.dense.weight",
            "bert.embeddings.word_embeddings.weight",
        )
    }
    assert list(moved.values()) == [True, False, True]


def test_a_cached_teacher_teaches_points(home: Path, tmp_path: Path) -> None:
    """The cache is written with the student of the first stage, which is then trained."""
    made = recipe(home, stage("points", quantize_points={"points": 4, "bucket_size": 64}))
    made["teacher"]["cache"] = {}
    run(made, tmp_path / "cached", evaluate=False)
    del made["teacher"]["cache"]
    run(made, tmp_path / "live", evaluate=False)
    beneath = [weights(tmp_path / name, "distillation")[LEARNED] for name in ("cached", "live")]
    assert torch.equal(*beneath)
    for name, tensor in weights(tmp_path / "live").items():
        torch.testing.assert_close(weights(tmp_path / "cached")[name], tensor, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("stages", "more", "message"),
    [
        ({"quantize_uniform": {"bits": 9}}, {}, r"stages\[0\]\.quantize_uniform\.bits"),
        ({"quantize_uniform": {"bucket": 4}}, {}, r"bucket_size"),
        ({"quantize_points": {"points": 1}}, {}, r"stages\[0\]\.quantize_points\.points"),
        ({"quantize_points": {}, "quantize_uniform": {}}, {}, "give the two a stage each"),
        ({"quantize_points": {}, "train": [{"layers": [1]}]}, {}, "the points alone train"),
        ({"quantize_points": {}}, {"control": True}, "learned points alone are no student"),
    ],
)
def test_what_does_not_go_together_is_refused(home: Path, stages: Any, more: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe(home, stage("bits", **stages), **more), "test")
