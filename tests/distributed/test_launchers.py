"""Every way to launch processes on CPUs trains as one process does, or is refused by name; none trains apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launched import trained

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CPU2 = ["accelerate.commands.launch", "--config_file", str(ROOT / "recipes" / "accelerate" / "cpu2.yaml")]
MULTI_CPU = ["accelerate.commands.launch", "--config_file", "FOLDER/multi_cpu.yaml"]
CONFIGURATION = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_machines: 1
num_processes: 2
machine_rank: 0
mixed_precision: "no"
main_training_function: main
"""
NOT_ON_A_CPU = {"use_cpu": False}
ON_A_CPU = {"ACCELERATE_USE_CPU": "true"}


def torchrun(processes: int) -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def accelerate(processes: int) -> list[str]:
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return ["accelerate.commands.launch", "--num_processes", str(processes), *plain]


def launch(
    folder: Path, command: list[str], settings: dict[str, Any], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    script = [str(Path(__file__).with_name("launched.py")), str(folder), json.dumps(settings)]
    home = {"HF_HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    alone = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "MASTER_ADDR")}
    return subprocess.run(
        [sys.executable, "-m", *command, *script],
        env={**alone, **home, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process tells."""
    return trained(per_device_train_batch_size=8)


@pytest.mark.parametrize(
    ("command", "processes", "settings", "environment"),
    [
        (torchrun(2), 2, {}, {}),
        (torchrun(4), 4, {}, {}),
        (torchrun(2), 2, {"ddp_backend": "gloo"}, {}),
        (torchrun(2), 2, NOT_ON_A_CPU, ON_A_CPU),
        ([*accelerate(2), "--multi_gpu"], 2, {}, {}),
        ([*accelerate(4), "--multi_gpu"], 4, {}, {}),
        ([*accelerate(2), "--multi_gpu"], 2, NOT_ON_A_CPU, ON_A_CPU),
        (CPU2, 2, {}, {}),
    ],
    ids=[
        "torchrun",
        "torchrun-4",
        "torchrun-gloo",
        "torchrun-environment",
        "accelerate-multi_gpu",
        "accelerate-multi_gpu-4",
        "accelerate-environment",
        "accelerate-cpu2.yaml",
    ],
)
def test_several_processes_train_as_one(
    tmp_path: Path,
    alone: dict[str, Any],
    command: list[str],
    processes: int,
    settings: dict[str, Any],
    environment: dict[str, str],
) -> None:
    done = launch(tmp_path, command, {"per_device_train_batch_size": 8 // processes, **settings}, environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for rank in range(processes):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert (told["world"], told["rows"]) == (processes, 21)
        assert told["weights"] == pytest.approx(alone["weights"], rel=1e-6)
        assert told["eval_loss"] == pytest.approx(alone["eval_loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        (torchrun(2), {**NOT_ON_A_CPU, "ddp_backend": "gloo"}, "nothing would exchange their gradients"),
        (torchrun(2), NOT_ON_A_CPU, "WORLD_SIZE is 2, but this process counts 1"),
        ([*accelerate(2), "--cpu"], {}, "asked for several processes and started one"),
        (accelerate(2), {}, "asked for several processes and started one"),
        (MULTI_CPU, {}, "asked for several processes and started one"),
        (torchrun(2), {"fsdp": True, "fsdp_config": {"version": 2}}, "FSDP is asked for .* active is MULTI_CPU"),
    ],
    ids=[
        "torchrun-gloo-alone",
        "torchrun-alone",
        "accelerate-cpu",
        "accelerate-without-gpu",
        "accelerate-MULTI_CPU",
        "fsdp-on-cpus",
    ],
)
def test_what_would_train_apart_is_refused(
    tmp_path: Path, command: list[str], settings: dict[str, Any], words: str
) -> None:
    (tmp_path / "multi_cpu.yaml").write_text(CONFIGURATION)
    done = launch(tmp_path, [each.replace("FOLDER", str(tmp_path)) for each in command], settings, {})
    assert done.returncode != 0
    assert not list(tmp_path.glob("[01].json"))
    assert re.search(words, done.stderr), done.stderr[-4000:]
