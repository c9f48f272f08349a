"""The launch scripts, with stand-ins for Slurm and `accelerate`: what they would start, as accelerate reads it."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

ROOT = Path(__file__).parents[2]
SCRIPT = ["scripts/distill_glue.py", "--recipe", "my recipe.yaml", "--output_dir", "out"]
MACHINES = {"MACHINES": "2", "MACHINE_RANK": "1", "MAIN_ADDRESS": "10.0.0.1", "GPUS": "8"}
SLURM = {
    "SLURM_JOB_NODELIST": "gpu[7-50006]",
    "SLURM_NNODES": "50000",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_JOB_ID": "41234",
}
STANDING_IN = {
    "accelerate": 'printf "%s\\0" "$@" > "$TOLD"',
    "scontrol": "seq -f gpu%.0f 7 50006",  # more than a pipe holds
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; SLURM_NODEID=1 exec "$@"',
}

pytestmark = pytest.mark.slow


def launched(folder: Path, script: str, config: str, given: dict[str, str]) -> argparse.Namespace:
    """The launch as accelerate understands it."""
    for name, does in STANDING_IN.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{does}\n")
        path.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(folder / "told"), **given}
    command = ["bash", f"scripts/launch/{script}", f"recipes/accelerate/{config}.yaml", *SCRIPT]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    words = (folder / "told").read_text().split("\0")[:-1]
    assert words[0] == "launch"
    read: argparse.Namespace = launch_command_parser().parse_args(words[1:])
    read.config_file = str(ROOT / read.config_file)
    return _validate_launch_command(read)[0]


@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2", "zero3"])
def test_a_machine_of_several(tmp_path: Path, config: str) -> None:
    read = launched(tmp_path, "node.sh", config, MACHINES)
    assert (read.num_machines, read.machine_rank, read.num_processes) == (2, 1, 16)
    assert (read.main_process_ip, read.main_process_port) == ("10.0.0.1", 29500)
    assert (read.training_script, read.training_script_args) == (SCRIPT[0], SCRIPT[1:])
    kinds = {"ddp": read.multi_gpu, "fsdp2": read.use_fsdp, "zero2": read.use_deepspeed, "zero3": read.use_deepspeed}
    assert kinds[config]
    if config == "fsdp2":
        assert str(read.fsdp_version) == "2"
    if config.startswith("zero"):
        assert (int(read.zero_stage), read.deepspeed_multinode_launcher) == (int(config[4:]), "standard")
        assert read.gradient_clipping == "auto"


def test_a_job_of_slurm(tmp_path: Path) -> None:
    """The first machine of the job is where they meet, however many there are; each asks Slurm which one it is."""
    read = launched(tmp_path, "slurm.sh", "ddp", SLURM)
    assert (read.num_machines, read.machine_rank, read.num_processes) == (50_000, 1, 400_000)
    assert (read.main_process_ip, read.main_process_port) == ("gpu7", 21234)
    assert (read.training_script, read.training_script_args) == (SCRIPT[0], SCRIPT[1:])


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"MAIN_ADDRESS": ""}, "the address of machine 0"), ({"MACHINE_RANK": "2"}, "MACHINE_RANK is 2 of 2 machines")],
)
def test_what_is_missing_is_named(changed: dict[str, str], words: str) -> None:
    environment = {"PATH": os.environ["PATH"], **MACHINES, **changed}
    command = ["bash", "scripts/launch/node.sh", "recipes/accelerate/ddp.yaml", *SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert words in done.stderr
