"""What a step costs on a GPU, at full size, in bfloat16, eager and compiled: the bare loop, the plain Trainer with the
loss in `compute_loss`, and hf_distill.

    python scripts/benchmarks/gpu.py w1 w2 w3 w4 --output gpu.json
    python scripts/benchmarks/gpu.py w1 --device cpu --scale 0.1 --steps 3      # toy size, without a GPU: does it run?

Step: time between events on the stream at two requests for a batch, median. Host: time that Python needs to issue a
step. Kernels: time in which the device is busy (profiler, one step). Memory: the most that was allocated. Share: FLOPs
of the step over its time and `--peak` (989 TFLOP/s: dense bfloat16 of H100 and H200). A step is bound by launches
where the device is busy for less than 70 % of it; else by arithmetic where the share is above 40 %, or by memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peers.catalogue import run_of
from peers.implementations.optimizer import adamw, step
from peers.implementations.stock import StockLoss
from peers.probes import WorkProbe
from peers.turns import Batches
from peers.workloads import WORKLOADS, Workload
from torch import nn
from torch.profiler import ProfilerActivity, profile

WARM = 5
"""Steps before anything is measured: compilation and memory pools."""


class Finished(Exception):
    """Enough steps were taken; raised from inside whatever loop asks for batches."""


class Clock:
    """Marks requests for a batch: warm steps, `steps` timed ones, one that is profiled, one whose work is counted
    (unless `counts` is False: compiled code hides its operators)."""

    def __init__(self, device: torch.device, steps: int, counts: bool) -> None:
        self.cuda, self.steps, self.counts = device.type == "cuda", steps, counts
        self.requests = 0
        self.facts: dict[str, float] = {}
        self._marks: list[tuple[Any, float]] = []
        self._open: AbstractContextManager[Any] | None = None
        self._work: WorkProbe | None = None

    def _mark(self) -> tuple[Any, float]:
        now = time.perf_counter()
        if not self.cuda:
            return now, now
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event, now

    def tick(self) -> None:
        self.requests += 1
        timed = self.requests - WARM - 1
        if timed == 0 and self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        if 0 <= timed <= self.steps:
            self._marks.append(self._mark())
        if timed == self.steps:
            self._read()
            activities = [ProfilerActivity.CUDA] if self.cuda else [ProfilerActivity.CPU]
            self._open = profile(activities=activities)
            self._open.__enter__()
        elif timed == self.steps + 1:
            self._close_profile()
            if not self.counts:
                raise Finished
            self._work = WorkProbe()
        elif timed == self.steps + 2:
            self.facts |= self._work.close()
            raise Finished

    def _read(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.facts["memory_megabytes"] = torch.cuda.max_memory_allocated() / 2**20
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        steps = [a.elapsed_time(b) if self.cuda else 1000 * (b - a) for (a, _), (b, _) in pairs]
        self.facts["step_ms"] = statistics.median(steps)
        self.facts["host_ms"] = statistics.median(1000 * (b - a) for (_, a), (_, b) in pairs)

    def _close_profile(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self._open.__exit__(None, None, None)
        field = "self_device_time_total" if self.cuda else "self_cpu_time_total"
        self.facts["kernel_ms"] = sum(getattr(event, field) for event in self._open.key_averages()) / 1000


def loop(compiled: bool) -> Callable[[Workload, nn.Module, nn.Module, Batches], None]:
    """The textbook loss over the stock models under autocast."""

    def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
        optimizer = adamw(student)
        loss = StockLoss(workload, torch.compile(teacher) if compiled else teacher, student)
        model = torch.compile(student) if compiled else student
        for index in range(len(data)):
            batch = data[index]
            with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16):
                value = loss(model, batch)
            value.backward()
            step(optimizer)

    return run


def one(
    name: str, workload: Workload, given: argparse.Namespace, eager: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The figures of one implementation, or the error that it ended with. Given those of the eager run, it is
    compiled, and its FLOPs are theirs."""
    compiled = eager is not None
    device = torch.device(given.device)
    teacher, student = (model.to(device) for model in workload.models())
    batches = [{key: value.to(device) for key, value in batch.items()} for batch in workload.batches()]
    clock = Clock(device, given.steps, counts=not compiled)
    arguments = {"use_cpu": device.type == "cpu", "bf16": True, "torch_compile": compiled}
    data = Batches(batches, clock, **arguments, dataloader_pin_memory=False)
    run = loop(compiled) if name == "loop" else run_of(name)
    try:
        run(workload, teacher, student, data)
    except Finished:
        facts = clock.facts if eager is None else {**clock.facts, "flops": eager["flops"]}
        return {**facts, **derived(workload, facts, given.peak)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    raise SystemExit(f"{name} ended by itself after {clock.requests} batches")


def derived(workload: Workload, facts: dict[str, float], peak: float) -> dict[str, Any]:
    seconds = facts["step_ms"] / 1000
    share = facts["flops"] / seconds / (peak * 1e12)
    busy = facts["kernel_ms"] / facts["step_ms"]
    bound = "launches" if busy < 0.7 else "arithmetic" if share > 0.4 else "memory"
    return {"tokens_per_second": workload.batch * workload.length / seconds, "share": share, "bound": bound}


def line(name: str, compiled: bool, found: dict[str, Any]) -> str:
    title = f"{name}, compiled" if compiled else name
    if "error" in found:
        return f"| {title} | {found['error'].splitlines()[0]} |"
    memory = f"{found['memory_megabytes']:.0f}" if "memory_megabytes" in found else "-"
    operators = f"{found['operators']:.0f}" if "operators" in found else "-"
    times = " | ".join(f"{found[key]:.2f}" for key in ("step_ms", "host_ms", "kernel_ms"))
    return (
        f"| {title} | {times} | {found['tokens_per_second']:.0f} | {memory} | {operators} "
        f"| {found['flops'] / 1e9:.1f} | {found['share']:.4f} | {found['bound']} |"
    )


HEAD = """
| {} | step ms | host ms | kernels ms | tokens/s | memory MB | operators | GFLOP | share of peak | bound by |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=sorted(WORKLOADS))
    parser.add_argument("--only", nargs="+", default=["loop", "hf_kd", "hf_distill"], help="implementations")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--eager", action="store_true", help="leave out the compiled ones")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="of width, batch, length and vocabulary")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the chip in bfloat16")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "workloads": {}}
    for workload in (WORKLOADS[each].scaled(given.scale) for each in given.workloads):
        rows = results["workloads"][workload.name] = {}
        print(HEAD.format(workload.name), flush=True)
        for implementation in given.only:
            eager = rows[implementation] = one(implementation, workload, given)
            print(line(implementation, False, eager), flush=True)
            if not given.eager and "error" not in eager:
                gc.collect()
                found = rows[f"{implementation} compiled"] = one(implementation, workload, given, eager)
                print(line(implementation, True, found), flush=True)
                torch.compiler.reset()
            gc.collect()
            if given.output:
                given.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
