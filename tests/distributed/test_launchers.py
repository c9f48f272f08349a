"""Every way to launch two processes on CPUs trains as two, or is refused by name; none trains quietly apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
ACCELERATE += ["--dynamo_backend", "no", "--main_process_port", "0"]
CPU2 = ["accelerate.commands.launch", "--config_file", str(ROOT / "recipes" / "accelerate" / "cpu2.yaml")]
NOT_ON_A_CPU = {"use_cpu": False}
ON_A_CPU = {"ACCELERATE_USE_CPU": "true"}


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


@pytest.mark.parametrize(
    ("command", "settings", "environment"),
    [
        (TORCHRUN, {}, {}),
        (TORCHRUN, {"ddp_backend": "gloo"}, {}),
        (TORCHRUN, NOT_ON_A_CPU, ON_A_CPU),
        ([*ACCELERATE, "--multi_gpu"], {}, {}),
        (CPU2, {}, {}),
    ],
    ids=["torchrun", "torchrun-gloo", "torchrun-environment", "accelerate-multi_gpu", "accelerate-cpu2.yaml"],
)
def test_two_processes_train_together(
    tmp_path: Path, command: list[str], settings: dict[str, Any], environment: dict[str, str]
) -> None:
    done = launch(tmp_path, command, settings, environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert (told[0]["world"], told[0]["rows"]) == (2, 21)


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        (TORCHRUN, {**NOT_ON_A_CPU, "ddp_backend": "gloo"}, "nothing would exchange their gradients"),
        (TORCHRUN, NOT_ON_A_CPU, "WORLD_SIZE is 2, but this process counts 1"),
        ([*ACCELERATE, "--cpu"], {}, "asked for several processes and started one"),
        (ACCELERATE, {}, "asked for several processes and started one"),
        (TORCHRUN, {"fsdp": True, "fsdp_config": {"version": 2}}, "FSDP is asked for .* active is MULTI_CPU"),
    ],
    ids=["torchrun-gloo-alone", "torchrun-alone", "accelerate-cpu", "accelerate-without-gpu", "fsdp-on-cpus"],
)
def test_what_would_train_apart_is_refused(
    tmp_path: Path, command: list[str], settings: dict[str, Any], words: str
) -> None:
    done = launch(tmp_path, command, settings, {})
    assert done.returncode != 0
    assert not list(tmp_path.glob("[01].json"))
    assert re.search(words, done.stderr), done.stderr[-4000:]
