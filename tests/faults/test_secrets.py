"""An access token in the environment, the arguments or a configuration is in no file and no message of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hf_distill.commands.glue import main
from hf_distill.errors import DistillationError, RecipeError
from hf_distill.evaluation.latency import Latency
from hf_distill.loading import load_model, load_tokenizer
from hf_distill.recipe import Recipe
from hf_distill.runs import measuring, results
from tests import tiny_runs
from tests.recipe.test_bad_recipes import GOOD

SECRET = "hf_" + "A1b2C3d4E5" * 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.write_sst2(folder / "sst2")
    return folder


@pytest.fixture
def flags(home: Path, tmp_path: Path) -> list[str]:
    given = {
        "task_name": "sst2", "dataset_dir": home / "sst2", "teacher_name_or_path": home / "teacher",
        "student_layers": "1", "output_dir": tmp_path / "out", "max_steps": "2", "save_strategy": "steps",
        "save_steps": "1", "per_device_train_batch_size": "4",
    }  # fmt: skip
    return [*(word for name, value in given.items() for word in (f"--{name}", str(value))), "--use_cpu"]


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[list[str]]:
    """What a run has said, once it is over, messages for developers included."""
    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    found: list[str] = []
    with caplog.at_level(logging.DEBUG):
        yield found
    captured = capfd.readouterr()
    found += [captured.out, captured.err, caplog.text]
    assert any(found), "nothing was said"
    assert SECRET not in "".join(found)


def holding(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.usefixtures("said")
def test_a_run_with_tokens_all_around_it(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    assert main([*flags, "--hub_token", SECRET, "--do_train", "--do_eval"]) == 2
    assert main([*flags, "--do_train", "--do_eval"]) == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"distillation.json", "trainer_state.json", "model.safetensors"} <= {path.name for path in files}
    assert holding(tmp_path) == []


@pytest.mark.parametrize("place", ["hub_token: {}", "note: {}", "{}: 1"])
def test_a_recipe_with_a_token_is_refused_without_repeating_it(place: str) -> None:
    text = GOOD.replace("      learning_rate: 1e-4", f"      {place.format(SECRET)}")
    with pytest.raises(RecipeError, match="token") as caught:
        Recipe.from_yaml(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_teacher_whose_settings_hold_a_token_is_refused_without_repeating_it(file: str, tmp_path: Path) -> None:
    """Every student that is cut from it would have the same settings."""
    folder = tiny_runs.save_teacher(tmp_path / "teacher")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "made_with": {"login": SECRET}}))
    load = {
        "config.json": partial(load_model, auto_class="AutoModelForSequenceClassification"),
        "tokenizer_config.json": load_tokenizer,
    }[file]
    with pytest.raises(DistillationError, match=rf"{file} holds what looks like an access token") as caught:
        load(str(folder), role="teacher")
    assert SECRET not in str(caught.value)
