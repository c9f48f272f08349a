"""One job in a process of its own: `python -m peers.jobs.worker TOOLKIT SETTINGS`, settings as JSON. The last line of
what it prints is the result."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import transformers
from torch.optim.optimizer import register_optimizer_step_pre_hook

from peers.jobs.job import Job, accuracy
from peers.probes import resident


def main() -> None:
    name, settings = sys.argv[1:]
    job = Job.of(json.loads(settings))
    transformers.logging.set_verbosity_error()
    run = importlib.import_module(f"peers.jobs.{name}").run
    imports = time.process_time()
    steps: list[float] = []
    register_optimizer_step_pre_hook(lambda *_: steps.append(time.process_time()))
    job.folder.mkdir(parents=True, exist_ok=True)
    wall = time.perf_counter()
    student = run(job)
    total = time.process_time() - imports
    result = {
        "cpu_seconds": total,
        "first_step": steps[0] - imports,
        "imports": imports,
        "wall_seconds": time.perf_counter() - wall,
        "steps": len(steps),
        "peak_megabytes": resident("VmHWM"),
        "accuracy": accuracy(job, student),
        "files": sorted(path.name for path in Path(job.folder).iterdir()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
