"""What one training step costs: hf_distill against a floor, a bare loop, the plain Trainer and other toolkits.

    python scripts/benchmarks/setup_peers.py --folder FOLDER
    python scripts/benchmarks/steps.py w1 w2 --environments FOLDER --rounds 7 --output results.json --plot steps.png
    python scripts/benchmarks/steps.py w1 --only floor loop hf_kd hf_distill          # needs no environments
    python scripts/benchmarks/steps.py w0 --scale 0.1 --rounds 1                      # toy size: does it run?

Every implementation trains the same student on the same batches in a process of its own. They take turns step by step,
so that a machine which slows down slows all of them, and the order rotates from round to round. CPU seconds of the
process, all threads; a round's ratio is the median over its turns, what is shown is the median over rounds with a
95 % bootstrap interval. Extra memory is what a step adds to the resident set at its peak. Operators and FLOPs are
exact. The first gradient of each is compared with the loop's; a row that misses it does not count.

w0 (6 and 3 layers 48 wide, 4 x 8 tokens; one thread: Python and dispatch), w1 (384 wide, 32 x 64 tokens), w1_12 (a
teacher of 12 layers): 0.5 CE + 0.5 T^2 KL. w2: MiniLM v2 relations, 32 x 128. w3: DistilBERT's triple loss, 16 x 128.
w4, w4_152k, w4_jsd: two Llamas, 4 x 256, vocabularies of 49,152 and 151,936, forward KL and JSD.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from peers import plots, report
from peers.catalogue import CATALOGUE
from peers.measuring import measure, temporary
from peers.workloads import WORKLOADS, Workload


def able(workload: Workload, only: list[str] | None, with_environments: bool) -> list[str]:
    """The implementations that can express a workload, of those asked for."""
    asked = only or [name for name, made in CATALOGUE.items() if with_environments or not made.requirements]
    return [name for name in asked if CATALOGUE[name].can(workload.kind, workload.beta)]


def one_workload(name: str, given: argparse.Namespace) -> dict[str, Any]:
    workload = WORKLOADS[name].scaled(given.scale)
    names = able(workload, given.only, given.environments is not None)
    with temporary(given.temporary) as folder:
        found = measure(workload, given.scale, names, given.rounds, given.environments, Path(folder))
        rows = report.rows(found)
    print(f"\n{name}: {given.rounds} rounds of {workload.steps} steps, {workload.threads} thread(s)\n", flush=True)
    print(report.table(workload, rows), flush=True)
    return {"rounds": given.rounds, "steps": workload.steps, "threads": workload.threads, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", nargs="+", choices=sorted(CATALOGUE), help="by default all that can express the loss"
    )
    parser.add_argument("--environments", type=Path, help="the folder of setup_peers.py; without it no other toolkit")
    parser.add_argument("--scale", type=float, default=1.0, help="of width, batch, length and vocabulary")
    parser.add_argument("--output", type=Path, help="a JSON file; workloads that it holds already are kept")
    parser.add_argument("--plot", type=Path, help="a figure of all workloads in the JSON file")
    parser.add_argument("--temporary", type=Path, help="a folder for gradients (default: the system's)")
    given = parser.parse_args()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    results: dict[str, Any] = {"versions": versions, "scale": given.scale, "workloads": {}}
    if given.output and given.output.exists():
        results["workloads"] = json.loads(given.output.read_text(encoding="utf-8"))["workloads"]
    for name in given.workloads:
        results["workloads"][name] = one_workload(name, given)
        if given.output:
            given.output.write_text(json.dumps(results, indent=2), encoding="utf-8")
    if given.plot:
        plots.steps(results["workloads"], given.plot)


if __name__ == "__main__":
    main()
