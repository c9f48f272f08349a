"""Checkpoints, the best model, what a trainer leaves, and the search for hyper-parameters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, TrainerCallback

from tests import tiny, tiny_runs
from tests.dropin import sides
from tests.dropin.sides import each_side

Side = Callable[..., Any]
SAVED = {
    "save_strategy": "steps",
    "save_steps": 2,
    "max_steps": 5,
    "optim": "adamw_torch_fused",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
}


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


# ---- what is kept ----

STRATEGIES: dict[str, dict[str, Any]] = {
    "steps, and the end": {},
    "the newest two": {"save_steps": 1, "save_total_limit": 2},
    "the best and the newest": {
        "save_steps": 1,
        "save_total_limit": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "learning_rate": 0.05,
    },
    "whenever it is the best": {
        "save_strategy": "best",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "loss",
        "learning_rate": 0.05,
    },
    "epochs": {"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2},
    "shares of the steps": {"save_steps": 0.4},
    "the model alone": {"save_only_model": True, "save_on_each_node": True},
}


@pytest.mark.parametrize("settings", sides.cases(STRATEGIES, ["the best and the newest"]))
def test_the_same_checkpoints_are_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    runs = {}
    for name, side in list(sides.SIDES.items())[:2]:
        runs[name] = side({**SAVED, **settings, "output_dir": str(tmp_path / name)})
        runs[name].train()
    sides.assert_same_run(runs["ours"], runs["stock"])
    kept = folders(tmp_path / "stock")
    assert kept
    assert folders(tmp_path / "ours") == kept
    for name in kept:
        stock, ours = ({path.name for path in (tmp_path / side / name).iterdir()} for side in runs)
        assert ours >= stock - {"training_args.bin"}, "the pickle of the arguments is a JSON file"
        assert "training_args.bin" not in ours
        weights = [load_file(tmp_path / side / name / "model.safetensors") for side in runs]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.allclose(weights[1][key], value, atol=1e-6) for key, value in weights[0].items())
    for each in ("best_metric", "best_global_step"):
        assert getattr(runs["ours"].state, each) == pytest.approx(getattr(runs["stock"].state, each)), each


@each_side
def test_a_model_and_its_tokenizer_are_saved(side: Side, tmp_path: Path) -> None:
    trainer = side({"output_dir": str(tmp_path), "max_steps": 1}, processing_class=tiny_runs.tokenizer())
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("eval", trainer.evaluate())
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "trainer_state.json",
        "eval_results.json",
        "all_results.json",
    }
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_loss"] > 0
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert tiny.distance(again, trainer.model) == 0.0


def test_the_tokenizer_of_a_collator_is_saved(tmp_path: Path) -> None:
    class WithTokenizer(tiny.Pad):
        tokenizer = tiny_runs.tokenizer()

    for name, side in sides.SIDES.items():
        side(data_collator=WithTokenizer()).save_model(str(tmp_path / name))
        assert (tmp_path / name / "tokenizer.json").is_file(), name


@each_side
def test_arguments_stay_as_they_are(side: Side) -> None:
    trainer = side({"max_steps": 1, "eval_strategy": "epoch"})
    before = trainer.args.to_dict()
    trainer.train()
    trainer.predict(tiny.rows("single_label", 4))
    assert trainer.args.to_dict() == before


# ---- going on ----


@pytest.mark.slow
@each_side
def test_a_run_goes_on_from_a_checkpoint(side: Side, tmp_path: Path) -> None:
    settings = {**SAVED, "output_dir": str(tmp_path), "train_sampling_strategy": "random"}
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    whole = side({**settings, **given}, model=tiny.model("single_label", seed=1, dropout=0.1))
    whole.train()
    losses = [row for row in sides.history(whole) if "loss" in row]
    shutil.rmtree(tmp_path / "checkpoint-5")
    for asked in (True, str(tmp_path / "checkpoint-2")):
        again = side({**settings, **given}, model=tiny.model("single_label", seed=1, dropout=0.1))
        again.train(resume_from_checkpoint=asked)
        assert tiny.distance(again.model, whole.model) == 0.0
        assert [row for row in sides.history(again) if "loss" in row] == losses
        shutil.rmtree(tmp_path / "checkpoint-5")


@each_side
def test_what_there_is_not_is_refused_and_false_is_none(side: Side, tmp_path: Path) -> None:
    given = {"output_dir": str(tmp_path), "max_steps": 1}
    for asked in (True, str(tmp_path / "checkpoint-9")):
        with pytest.raises(ValueError, match="checkpoint"):
            side(given).train(resume_from_checkpoint=asked)
    assert side(given).train(resume_from_checkpoint=False).global_step == 1


class LackingMemory(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.train_batch_size >= 8:
            raise RuntimeError("CUDA out of memory.")


@each_side
def test_a_batch_size_that_fits_is_found_and_kept(side: Side, tmp_path: Path) -> None:
    settings = {**SAVED, "output_dir": str(tmp_path), "auto_find_batch_size": True}
    first = side(settings, callbacks=[LackingMemory()])
    first.train()
    assert first._train_batch_size == 7
    again = side({**settings, "max_steps": 6})
    assert again._train_batch_size == 8
    again.train(resume_from_checkpoint=True)
    assert (again._train_batch_size, again.state.global_step) == (7, 6)


@each_side
def test_adapters_with_names_of_their_own_go_on(side: Side, tmp_path: Path) -> None:
    def student() -> Any:
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], lora_dropout=0.0)
        adapted = get_peft_model(tiny.model("single_label", seed=1), config, "first")
        adapted.add_adapter("second", config)
        return adapted

    settings = {**SAVED, "output_dir": str(tmp_path), "learning_rate": 0.05}
    torch.manual_seed(0)
    whole = side(settings, model=student())
    whole.train()
    assert not list((tmp_path / "checkpoint-2").glob("adapter_model.*")), "they lie in folders of their names"
    again = side(settings, model=student())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    ours, theirs = again.model.state_dict(), whole.model.state_dict()
    moved = [name for name in theirs if "lora_B.first" in name]
    assert moved
    assert all(torch.equal(ours[name], theirs[name]) for name in moved)


# ---- the search ----


@pytest.mark.slow
@each_side
def test_hyperparameters_are_searched(side: Side, tmp_path: Path) -> None:
    def model_init(trial: Any) -> Any:
        return tiny.model("single_label", seed=0 if trial is None else trial.suggest_int("seed", 1, 2))

    trainer = side(
        {
            "output_dir": str(tmp_path),
            "max_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
        },
        model_init=model_init,
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_categorical("learning_rate", [1e-3, 0.1]),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4]),
        },
        compute_objective=lambda metrics: (metrics["eval_loss"], metrics["epoch"]),
        direction=["minimize", "maximize"],
        hp_name=lambda trial: f"trial-{trial.number}",
        n_trials=2,
        backend="optuna",
    )
    assert all(set(run.hyperparameters) == {"seed", "learning_rate", "per_device_train_batch_size"} for run in best)
    assert (tmp_path / "trial-0" / "checkpoint-2").is_dir()
    assert trainer._train_batch_size == 4
    assert trainer.train().global_step == 2, "a training as usual is still possible"
