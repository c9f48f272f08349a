"""What a plain loop, or the plain Trainer, gets wrong without a word, and no other file looks at."""

from __future__ import annotations

import ast
import json
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

import hf_distill
from hf_distill import BrokenCheckpoint, HiddenMSE, Labels, RecipeError, SoftTargets, checkpoints
from hf_distill.recipe import Recipe
from tests import tiny
from tests.faults.tiny_faults import trainer_for
from tests.recipe.test_bad_recipes import GOOD

CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def losses(trainer: Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


# ---- counts and gradients ----


def test_labels_that_nobody_reads_do_not_change_the_scale() -> None:
    """An override of `compute_loss` that returns a mean is right without labels, and off by the accumulation with
    them."""
    rows = tiny.rows("single_label", 8)
    bare = [{name: value for name, value in row.items() if name != "labels"} for row in rows]
    cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    students = []
    for given, arguments in ((rows, {}), (rows, cut), (bare, cut)):
        trainer = trainer_for(objectives=SoftTargets(), train_dataset=given, arguments=arguments)
        trainer.train()
        students.append(trainer.model)
    assert tiny.distance(students[0], tiny.model("single_label", seed=1)) > 1e-3
    assert tiny.distance(students[0], students[1]) < 1e-6
    assert tiny.distance(students[1], students[2]) == 0.0


def test_an_evaluation_between_steps_counts_its_own_rows_and_leaves_those_of_the_window() -> None:
    """Two micro-batches a step, of unlike numbers of tokens; an evaluation after every step."""
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    held = tiny.rows("token_classification", 5, seed=9)

    def trainer(**arguments: Any) -> Any:
        rows = tiny.rows("token_classification", 12)
        return trainer_for(
            "token_classification",
            train_dataset=rows,
            eval_dataset=held,
            objectives=SoftTargets() + Labels(),
            arguments={**settings, **arguments},
        )

    still = trainer(learning_rate=0.0, eval_strategy="steps", eval_steps=1)
    before = still.evaluate()["eval_loss"]
    still.train()
    found = [row["eval_loss"] for row in still.state.log_history if "eval_loss" in row]
    assert found == [before] * 3
    looked, alone = trainer(eval_strategy="steps", eval_steps=1), trainer()
    for each in (looked, alone):
        each.train()
    assert tiny.distance(looked.distillation, alone.distillation) == 0.0
    assert losses(looked) == losses(alone)


def projected(**arguments: Any) -> Any:
    """A student of another width than its teacher's: the term learns a projection. All batches are equal."""
    row = tiny.rows("single_label", 1)[0]
    return trainer_for(
        teacher=tiny.model("single_label", hidden=48, seed=2),
        objectives=HiddenMSE(layer_map="final"),
        train_dataset=[row] * 12,
        arguments={"max_steps": 3, **arguments},
    )


def test_what_objectives_learn_starts_every_step_without_a_gradient() -> None:
    """Parameters outside of the model would add up theirs: 1, 2, 3 times the norm on equal batches at a rate of 0."""
    trainer = projected(learning_rate=0.0)
    trainer.train()
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-6)
    assert norms[0] > 0.1


def test_what_objectives_learn_is_clipped_with_the_student() -> None:
    trainer = projected(max_steps=1, learning_rate=1.0, max_grad_norm=1e-2)
    before = [parameter.detach().clone() for parameter in trainer.distillation.parameters()]
    trainer.train()
    moved = [now.detach() - then for now, then in zip(trainer.distillation.parameters(), before, strict=True)]
    assert float(nn.utils.get_total_norm(moved)) == pytest.approx(1e-2, rel=1e-3)
    learned = [now.detach() for now in trainer.distillation.objectives.parameters()]
    assert learned
    assert any(tensor.abs().max() > 0 for tensor in moved[-len(learned) :])


def test_adapters_train_alike_with_checkpointed_activations() -> None:
    students = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        settings = {"target_modules": ["query", "value"], "init_lora_weights": False}
        student = get_peft_model(tiny.model("single_label", seed=1), LoraConfig(**settings))
        terms = SoftTargets() + HiddenMSE(layer_map="spread")
        trainer = trainer_for(model=student, objectives=terms, arguments={CHECKPOINTING: checkpointing})
        trainer.train()
        students.append(student)
    assert tiny.distance(*students) < 1e-7


# ---- the order of rows ----


def ordered(folder: Path, eval_dataset: Any = None, **arguments: Any) -> Any:
    """Two epochs of three steps, in an order that is drawn from the generator that dropout draws from."""
    return trainer_for(
        model=tiny.model("single_label", seed=1, dropout=0.2),
        train_dataset=tiny.rows("single_label", 12),
        eval_dataset=eval_dataset,
        arguments={
            "output_dir": str(folder),
            "max_steps": 6,
            "save_strategy": "steps",
            "save_steps": 1,
            "train_sampling_strategy": "random",
            "accelerator_config": {"use_seedable_sampler": False},
            **arguments,
        },
    )


def test_an_order_that_cannot_be_found_again_is_refused_and_the_others_are_exact(tmp_path: Path) -> None:
    """The Trainer goes on with another order, without a word."""
    whole = ordered(tmp_path)
    whole.train()
    for step in (2, 3):  # within the first epoch, and at its end
        again = ordered(tmp_path)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert tiny.distance(again.distillation, whole.distillation) == 0.0, step
    asked = str(tmp_path / "checkpoint-5")
    with pytest.raises(BrokenCheckpoint, match=r"is of epoch 1\.67, whose order of rows is not known"):
        ordered(tmp_path).train(resume_from_checkpoint=asked)
    ordered(tmp_path, ignore_data_skip=True).train(resume_from_checkpoint=asked)


def test_other_folders_beside_checkpoints_are_none(tmp_path: Path) -> None:
    ordered(tmp_path, max_steps=2).train()
    for name in ("checkpoint-final", "checkpoint-7b", "checkpoint-"):
        (tmp_path / "checkpoint-2").rename(tmp_path / name)
        assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-1"
        (tmp_path / name).rename(tmp_path / "checkpoint-2")


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of Unix")
def test_weights_may_be_read_by_whoever_may_read_the_rest(tmp_path: Path) -> None:
    """safetensors writes them for their owner alone."""
    trainer = projected(output_dir=str(tmp_path), save_strategy="steps", save_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in (tmp_path / "checkpoint-3", tmp_path / "final"):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert {"model.safetensors", "distillation.safetensors", "config.json"} <= modes.keys()
        assert set(modes.values()) == {modes["config.json"]}


# ---- evaluation ----


def test_states_that_objectives_read_are_no_predictions() -> None:
    """The Trainer would gather the states of all layers over the whole data set."""
    trainer = trainer_for(objectives=SoftTargets() + HiddenMSE(layer_map="spread"))
    found = trainer.predict(tiny.rows("single_label", 6))
    assert isinstance(found.predictions, np.ndarray)
    assert found.predictions.shape == (6, 3)


def test_nan_in_one_batch_of_an_evaluation_is_its_loss() -> None:
    """Newer Trainers leave that batch out of the mean (`logging_nan_inf_filter`)."""
    model = tiny.model("single_label", seed=1)
    calls: list[int] = []

    def spoil(module: nn.Module, inputs: Any, output: Any) -> Any:
        calls.append(1)
        return output * float("nan") if len(calls) == 2 else output

    model.classifier.register_forward_hook(spoil)
    arguments = {"per_device_eval_batch_size": 2, "logging_nan_inf_filter": True}
    trainer = trainer_for(model=model, objectives=Labels(), arguments=arguments)
    assert np.isnan(trainer.evaluate(tiny.rows("single_label", 6))["eval_loss"])
    assert len(calls) == 3


def test_logs_are_plain_numbers(tmp_path: Path) -> None:
    """A tensor among them could not be saved."""
    trainer = ordered(tmp_path, tiny.rows("single_label", 4), max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    rows = trainer.state.log_history
    assert {type(value) for row in rows for value in row.values()} <= {int, float}
    assert json.loads(json.dumps(rows)) == rows


# ---- teachers, recipes, pickles ----


def test_a_teacher_whose_linear_layers_are_in_8_bits_teaches_nearly_what_the_plain_one_does() -> None:
    plain = tiny.model("single_label", seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move it elsewhere
        halved = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(halved.bert.encoder.layer[0].attention.self.query, nn.Linear)
    found = []
    for teacher in (plain, halved):
        trainer = trainer_for(teacher=teacher, objectives=SoftTargets() + HiddenMSE(layer_map="final"))
        trainer.train()
        found.append(losses(trainer)[0])
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("old", "new"),
    {
        "evaluation_strategy: steps": "eval_strategy",
        "warmup_ratio: 0.1": "warmup_steps",
        "per_gpu_train_batch_size: 8": "per_device_train_batch_size",
        "include_inputs_for_metrics: true": "include_for_metrics",
        "no_cuda: true": "TrainingArguments has no argument 'no_cuda'",
        "fp16_backend: amp": "TrainingArguments has no argument 'fp16_backend'",
        "logging_dir: runs": "may not stand in a recipe",
        "push_to_hub_token: x": "token",
    }.items(),
)
def test_arguments_of_earlier_versions_are_refused_with_their_line(old: str, new: str) -> None:
    text = GOOD.replace("      learning_rate: 1e-4", f"      {old}")
    with pytest.raises(RecipeError, match=r"line 14") as caught:
        Recipe.from_yaml(text)
    assert new in str(caught.value)


def test_nothing_in_the_package_unpickles() -> None:
    """Neither by a module that can, nor by a call that lets torch, numpy or a YAML reader do it."""
    found = []
    for path in Path(hf_distill.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        suspect = any(word in text for word in (*UNPICKLING, "weights_only", "torch.load", "yaml"))
        for node in ast.walk(ast.parse(text)) if suspect else ():
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                words = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
                called = ast.unparse(node.func)
                allowed = words.get("weights_only") is True if called == "torch.load" else True
                if words.get("allow_pickle") or words.get("weights_only") is False or not allowed:
                    names = ["pickle"]
                if called in ("yaml.load", "yaml.full_load", "yaml.unsafe_load"):
                    names = ["pickle"]
            if {name.split(".")[0] for name in names} & {
                "pickle",
                "cloudpickle",
                "dill",
                "joblib",
                "marshal",
                "shelve",
            }:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []
