"""What is refused at the start: launches whose processes would train apart, and strategies that are not active."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from torch import nn

from hf_distill import checks
from hf_distill.distillation import Losses
from hf_distill.errors import DistillationError
from hf_distill.shards import in_shards, of_objectives, of_student
from hf_distill.training import repeated, sharding

ROOT = Path(__file__).parents[1]


class DeepSpeedEngine(nn.Module):
    """Named as DeepSpeed's."""


class FSDPModule(nn.Module):
    """Named as FSDP2's."""


def setting(kind: str = "NO", processes: int = 1, world_size: int = 1, **asked: bool) -> Any:
    """As much of a trainer as the checks look at."""
    args = SimpleNamespace(
        n_gpu=0,
        world_size=world_size,
        torch_compile=False,
        fsdp=asked.get("fsdp"),
        deepspeed=asked.get("deepspeed"),
        save_on_each_node=asked.get("save_on_each_node", False),
    )
    accelerator = SimpleNamespace(
        distributed_type=DistributedType(kind),
        num_processes=processes,
        mixed_precision="no",
        device=torch.device("cpu"),
        state=SimpleNamespace(),
    )
    return SimpleNamespace(args=args, accelerator=accelerator, compute_loss_func=None, model=nn.Linear(1, 1))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ("USE_FSDP", "USE_DEEPSPEED", "MIXED_PRECISION")
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", *(f"ACCELERATE_{each}" for each in told)):
        monkeypatch.delenv(name, raising=False)


# ---- processes ----


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"kind": "NO", "processes": 1, "world_size": 1}, "WORLD_SIZE is 2, but this process counts 1"),
        ({"kind": "NO", "processes": 1, "world_size": 2}, "nothing would exchange their gradients.*--use_cpu"),
        ({"kind": "MULTI_CPU", "processes": 1, "world_size": 2}, "accelerate counts 1 processes"),
    ],
)
def test_processes_that_do_not_know_of_each_other(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistillationError, match=words):
        checks.before_training(setting(**found))


def test_one_process_in_place_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch --cpu --num_processes 2` leaves it: a place to meet, and nobody to be met."""
    checks.before_training(setting())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    checks.before_training(setting())  # set by somebody else
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(DistillationError, match=r"started one.*torchrun --nproc_per_node 2"):
        checks.before_training(setting())
    monkeypatch.setenv("WORLD_SIZE", "1")
    checks.before_training(setting())


# ---- strategies ----


@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("MULTI_CPU", "fsdp", "FSDP is asked for .* what is active is MULTI_CPU"),
        ("MULTI_GPU", "deepspeed", "DEEPSPEED is asked for .* what is active is MULTI_GPU"),
    ],
)
def test_a_strategy_that_is_asked_for_and_not_there(
    monkeypatch: pytest.MonkeyPatch, kind: str, asked: str, words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    checks.before_training(setting(kind, 2, 2))
    with pytest.raises(DistillationError, match=words):
        checks.before_training(setting(kind, 2, 2, **{asked: True}))
    monkeypatch.setenv(f"ACCELERATE_USE_{asked.upper()}", "true")
    with pytest.raises(DistillationError, match=words):
        checks.before_training(setting(kind, 2, 2))


def test_machines_that_would_save_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    checks.before_training(setting("MULTI_GPU", 2, 2, save_on_each_node=True))
    zero = setting("DEEPSPEED", 2, 2, save_on_each_node=True)
    for stage, refused in ((2, False), (3, True)):
        zero.accelerator.state.deepspeed_plugin = SimpleNamespace(zero_stage=stage)
        with pytest.raises(DistillationError, match="save_on_each_node") if refused else nullcontext():
            checks.before_training(zero)
    with pytest.raises(DistillationError, match="the first process alone gathers"):
        checks.before_training(setting("FSDP", 2, 2, save_on_each_node=True))


def wrapped(kind: str, engine: nn.Module, distillation: nn.Module | None = None) -> Any:
    trainer = setting(kind, 2, 2)
    trainer.model_wrapped, trainer.distillation = engine, distillation
    return trainer


@pytest.mark.parametrize(
    ("kind", "engine"), [("FSDP", FSDPModule()), ("DEEPSPEED", DeepSpeedEngine())], ids=["fsdp", "deepspeed"]
)
def test_what_wraps_the_model_is_what_was_asked_for(kind: str, engine: nn.Module) -> None:
    checks.engine_is_active(wrapped(kind, engine))
    for other in {"FSDP", "DEEPSPEED", "MULTI_GPU"} - {kind}:
        with pytest.raises(DistillationError, match=f"2 processes with {other}, but .* {type(engine).__name__}"):
            checks.engine_is_active(wrapped(other, engine))


def test_a_model_that_nothing_wraps() -> None:
    bare = nn.Linear(1, 1)
    with pytest.raises(DistillationError, match="MULTI_CPU, but the model is not wrapped for them"):
        checks.engine_is_active(wrapped("MULTI_CPU", bare, bare))


# ---- what an engine gathered ----


def test_names_of_the_student_and_of_the_objectives() -> None:
    """A parameter of the student may be called like the rooms of a `Distillation`."""
    ones = torch.ones(2)
    gathered = {"student.head.weight": ones, "student.student.bias": ones * 2, "objectives.vid.scale": ones * 3}
    assert of_student(gathered).keys() == {"head.weight", "student.bias"}
    assert of_objectives(gathered).keys() == {"vid.scale"}
    bare = {"head.weight": ones}
    assert of_student(bare) == bare
    assert not in_shards(nn.Linear(2, 2))


@pytest.mark.parametrize(("told", "written"), [("auto", 0.5), (None, 0.5), (0.5, 0.5)])
def test_deepspeed_clips_as_asked(told: Any, written: float) -> None:
    config = {} if told is None else {"gradient_clipping": told}
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(config=config))
    state = SimpleNamespace(deepspeed_plugin=plugin)
    trainer: Any = SimpleNamespace(args=SimpleNamespace(max_grad_norm=0.5), accelerator=SimpleNamespace(state=state))
    sharding._clip_as_asked(trainer)
    assert config["gradient_clipping"] == written
    config["gradient_clipping"] = 2.0
    with pytest.raises(DistillationError, match=r"gradient_clipping 2.0, and max_grad_norm is 0.5"):
        sharding._clip_as_asked(trainer)


# ---- rows that fill a batch ----


def test_a_batch_is_cut_to_its_own_rows() -> None:
    batch = {"input_ids": torch.arange(12).reshape(4, 3), "labels": torch.arange(4), "other": torch.zeros(3), "n": 4}
    cut = repeated._cut(dict(batch), 4, 3)
    assert cut["input_ids"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert (cut["labels"].tolist(), len(cut["other"]), cut["n"]) == ([0, 1, 2], 3, 4)
    assert not repeated.is_hollow(cut)
    hollow = repeated._cut(dict(batch), 4, 0)
    assert hollow["labels"].tolist() == [0]
    assert repeated.is_hollow(hollow)


def test_a_hollow_batch_weighs_nothing_and_stays_attached() -> None:
    weight = torch.ones(3, requires_grad=True)
    losses = repeated.emptied(Losses((weight * 5).sum(), torch.ones(2)))
    losses.total.backward()
    assert weight.grad is not None
    assert (losses.total.item(), weight.grad.tolist(), losses.values.tolist()) == (0.0, [0.0] * 3, [0.0] * 2)


# ---- configurations of accelerate ----


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cpu2", DistributedType.MULTI_GPU),
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp2", DistributedType.FSDP),
        ("zero2", DistributedType.DEEPSPEED),
        ("zero3", DistributedType.DEEPSPEED),
    ],
)
def test_accelerate_reads_the_configurations(name: str, kind: DistributedType) -> None:
    config: Any = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, 2, 1)
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if kind == DistributedType.DEEPSPEED:
        assert config.deepspeed_config["gradient_clipping"] == "auto"
        assert config.deepspeed_config["zero_stage"] == int(name.removeprefix("zero"))


def test_no_configuration_is_forgotten() -> None:
    assert sorted(os.listdir(ROOT / "recipes" / "accelerate")) == [
        f"{name}.yaml" for name in ("cpu2", "ddp", "fsdp2", "zero2", "zero3")
    ]
