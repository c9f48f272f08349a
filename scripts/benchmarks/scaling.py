"""How training time scales with processes: a small model of it, fed with measured rates and checked against real runs.

    python scripts/benchmarks/scaling.py measure --processes 1 2 4 --output rates.json     # tiny models, on this CPU
    python scripts/benchmarks/scaling.py predict --rates rates.json                        # this machine, checked
    python scripts/benchmarks/scaling.py predict --student-step 0.11 --teacher-forward 0.09 --parameters 66e6 \\
        --gpus 8 64 512 --network 25e9 --inside 200e9 --store 2e9                          # a cluster

The model of one optimizer step, in seconds on each process:

    compute = accumulation * (teacher + student)                         the teacher's forward pass; 0 with a cache
    exchange = 2 (p - 1) / p * bytes / network + 2 (p - 1) * latency     ring all-reduce of gradients, p processes
    reading = accumulation * rows * p * bytes_of_a_row / store           text and cache, read ahead by workers
    step = max(compute + (1 - overlap) * exchange, exchange, reading)    DDP exchanges while it goes backward

`bytes` are those of the gradients in the student's own type; under FSDP the weights are gathered twice and gradients
scattered once, 1.5 times as much. Across machines the slowest link is the network between them, shared by their
GPUs. Processes that share cores share them for the exchange as well, which is work of the same cores. The rows of a
cache and of a stream all come from one store, so that its rate is divided among all processes. Efficiency is the rows
a second, divided by those of one process times their number. Nothing here knows of stragglers, of batches of unequal
length, or of a student that learns worse of larger batches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHARDED = 1.5
"""What FSDP2 and ZeRO-3 send, as a multiple of DDP's all-reduce: two gathers and one scatter, each half of it."""


@dataclass(frozen=True)
class Setting:
    """What is measured of a job on one process, and what the machines can do. Seconds, bytes, bytes a second."""

    student_step: float
    """Forward, backward and optimizer of one micro-batch."""
    teacher_forward: float
    rows: int = 32
    """A micro-batch of one process."""
    accumulation: int = 1
    parameters: float = 66e6
    bytes_per_parameter: float = 4.0
    cached: bool = False
    """Whether the teacher's answers are read, `cache_row` bytes of each row, in place of a forward pass."""
    cache_row: float = 4.0e3
    text_row: float = 1.0e3
    sharded: bool = False
    gpus_per_machine: int = 8
    network: float = 25e9
    """Between two machines, all their GPUs together."""
    inside: float = 200e9
    """Between two GPUs of a machine."""
    latency: float = 2e-5
    store: float = 2e9
    """What one store gives to all processes together."""
    overlap: float = 0.7
    """The share of the exchange that is hidden behind the backward pass."""
    cores: int = 0
    """Cores that the processes share, for the exchange as well, as on a CPU; 0 where each has an accelerator of its
    own."""


@dataclass(frozen=True)
class Step:
    """The parts of a step of every process, in seconds, and what bounds it."""

    processes: int
    compute: float
    exchange: float
    reading: float
    seconds: float
    rows_per_second: float
    bound: str
    remedy: str


REMEDIES = {
    "student": "a larger batch does not help; more GPUs do, or bf16, or a smaller student",
    "teacher": "cache_teacher, or bf16 for the teacher",
    "network": "gradient_accumulation_steps, a larger per_device_train_batch_size, or DDP in place of FSDP",
    "store": "copies on each machine's own disk, a smaller codec of the cache, or the teacher in its place",
}


def step_of(setting: Setting, processes: int) -> Step:
    """The model of the docstring, for so many processes."""
    shared = max(1.0, processes / setting.cores) if setting.cores else 1.0
    student, forward = setting.student_step * shared, setting.teacher_forward * shared
    rows = setting.rows * processes
    teacher = 0.0 if setting.cached else forward
    compute = setting.accumulation * (student + teacher)
    exchange = _exchange(setting, processes) * shared
    reading = setting.accumulation * rows * (setting.text_row + setting.cache_row * setting.cached) / setting.store
    seconds = max(compute + (1 - setting.overlap) * exchange, exchange, reading)
    bound = _bound(setting, student, teacher, exchange, reading)
    return Step(
        processes,
        compute,
        exchange,
        reading,
        seconds,
        setting.accumulation * rows / seconds,
        bound,
        REMEDIES[bound],
    )


def _exchange(setting: Setting, processes: int) -> float:
    """A ring all-reduce over the slowest link; ranks in one ring, so a machine's network carries its share once."""
    if processes == 1:
        return 0.0
    link = setting.inside if processes <= setting.gpus_per_machine else setting.network
    volume = setting.parameters * setting.bytes_per_parameter * (SHARDED if setting.sharded else 1.0)
    return 2 * (processes - 1) / processes * volume / link + 2 * (processes - 1) * setting.latency


def _bound(setting: Setting, student: float, teacher: float, exchange: float, reading: float) -> str:
    compute = setting.accumulation * (student + teacher)
    if reading >= max(compute, exchange):
        return "store"
    if (1 - setting.overlap) * exchange > compute / 2 or exchange > compute:
        return "network"
    return "teacher" if teacher > student else "student"


def table(setting: Setting, numbers: list[int]) -> str:
    """One row for each number of processes, as Markdown."""
    one = step_of(setting, 1)
    lines = [
        "| processes | rows/s | efficiency | compute ms | exchange ms | reading ms | bound by | what moves it |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for number in numbers:
        each = step_of(setting, number)
        efficiency = each.rows_per_second / (one.rows_per_second * number)
        times = " | ".join(f"{1e3 * value:.2f}" for value in (each.compute, each.exchange, each.reading))
        lines.append(
            f"| {number} | {each.rows_per_second:,.0f} | {efficiency:.0%} | {times} | {each.bound} | {each.remedy} |"
        )
    return "\n".join(lines)


# ---- measuring ----


def measure(processes: list[int], steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step in real runs of so many processes, and the rates that the model is fed with; medians of rounds
    in which the numbers take turns, as the speed of a virtual machine drifts."""
    runs: dict[str, list[dict[str, Any]]] = {str(number): [] for number in processes}
    for number in rounds * processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        command = [sys.executable, *(launcher if number > 1 else []), __file__, "run", "--steps", str(steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith('{"step"'))
        runs[str(number)].append(json.loads(line))
        print(f"{number} processes: {line}", flush=True)
    medians = {
        number: {name: statistics.median(run[name] for run in each) for name in each[0]}
        for number, each in runs.items()
    }
    return {"cores": os.cpu_count(), "runs": medians}


def setting_from(rates: dict[str, Any]) -> Setting:
    """This machine: the parts of a step of one process, and processes that share its cores."""
    one = rates["runs"]["1"]
    several = [run for name, run in rates["runs"].items() if name != "1"]
    exchanged = several[0] if several else {"network": 1e9, "latency": 1e-4}
    return Setting(
        student_step=one["student_step"],
        teacher_forward=one["teacher_forward"],
        rows=one["rows"],
        parameters=one["parameters"],
        network=exchanged["network"],
        inside=exchanged["network"],
        latency=exchanged["latency"],
        overlap=0.0,  # gloo and the backward pass share the cores
        cores=rates["cores"],
    )


def checked(rates: dict[str, Any]) -> str:
    """What the model says of the runs that were measured, beside what they took; CPU seconds are a process's own, and
    would stay the same if nothing were exchanged."""
    setting = setting_from(rates)
    lines = [
        "| processes | step, measured | step, model | model / measured | CPU of a process, measured |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in rates["runs"].items():
        said = step_of(setting, int(name)).seconds
        step, cpu = 1e3 * run["step"], 1e3 * run["cpu"]
        lines.append(f"| {name} | {step:.1f} ms | {1e3 * said:.1f} ms | {1e3 * said / step:.2f} | {cpu:.1f} ms |")
    return "\n".join(lines)


# ---- the command line ----


def _predict(given: argparse.Namespace) -> None:
    if given.rates is not None:
        rates = json.loads(given.rates.read_text(encoding="utf-8"))
        print(checked(rates))
        if given.student_step is None:
            return
    if given.student_step is None or given.teacher_forward is None:
        raise SystemExit("predict needs --rates, or --student-step and --teacher-forward (seconds of a micro-batch).")
    known = {name: value for name, value in vars(given).items() if name in Setting.__dataclass_fields__}
    setting = Setting(**{name: value for name, value in known.items() if value is not None})
    for title, changed in variants(setting).items():
        print(f"\n{title}\n\n{table(changed, given.gpus)}")
    print(f"\n{json.dumps(asdict(setting))}")


def variants(setting: Setting) -> dict[str, Setting]:
    """The ways to train that are compared."""
    return {
        "the teacher runs": setting,
        "the teacher's answers are cached": replace(setting, cached=True),
        "accumulation 8, the teacher runs": replace(setting, accumulation=8 * setting.accumulation),
        "student in shards, the teacher runs": replace(setting, sharded=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="real runs on this machine")
    measuring.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    measuring.add_argument("--steps", type=int, default=20)
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument("--output", type=Path, required=True)
    running = commands.add_parser("run", help="one run, as measure starts it")
    running.add_argument("--steps", type=int, default=20)
    predicting = commands.add_parser("predict", help="the model")
    predicting.add_argument("--rates", type=Path, help="what measure wrote")
    predicting.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    for name, field in Setting.__dataclass_fields__.items():
        flag = f"--{name.replace('_', '-')}"
        if field.type == "bool":
            predicting.add_argument(flag, action="store_true")
        else:
            predicting.add_argument(flag, type=int if field.type == "int" else float)
    given = parser.parse_args()
    if given.command == "measure":
        given.output.write_text(
            json.dumps(measure(given.processes, given.steps, given.rounds), indent=2) + "\n", encoding="utf-8"
        )
    elif given.command == "run":
        from scaling_run import run

        run(given.steps)
    else:
        _predict(given)


if __name__ == "__main__":
    main()
