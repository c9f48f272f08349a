"""What `hf-distill doctor` says a step will cost, against steps that are really made.

    python scripts/benchmarks/doctor.py w1 w2 w3 w4 --rounds 3 --output doctor.json
    python scripts/benchmarks/doctor.py w1 --scale 0.1 --rounds 1         # toy size: does it run?

Foretold: CPU seconds and memory as doctor measures them, on models that it makes of their configurations and on rows
that it makes up. Seen: the median step of `DistillationTrainer` in `steps.py`, with the workload's own models and
batches, and the most memory that its process held in a step. Both are processes of their own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import textbook
from peers.measuring import environment, measure, temporary
from peers.workloads import WORKLOADS, Workload

from hf_distill.inspection.cost import expected_costs
from hf_distill.recipe import Recipe

ARGUMENTS = {"learning_rate": 1e-4, "weight_decay": 0.01, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
TEXT = {"relations": "encoder", "masked_lm": "masked_lm", "causal_lm": "causal_lm"}


def terms(workload: Workload) -> list[dict[str, Any]]:
    """The loss of a workload, as a recipe writes it."""
    soft = {"temperature": workload.temperature}
    if workload.kind == "classifier":
        halves = (1 - textbook.ALPHA, textbook.ALPHA)
        return [{"soft_targets": soft, "weight": halves[0]}, {"labels": {}, "weight": halves[1]}]
    if workload.kind == "relations":
        return [{"minilm_v2": {"relation_heads": workload.relation_heads}}]
    if workload.kind == "causal_lm":
        kind = {"kind": "forward_kl"} if workload.beta == 0.0 else {"kind": "jsd", "beta": workload.beta}
        return [{"soft_targets": {**soft, **kind}}]
    weights = textbook.TRIPLE
    entries = ({"soft_targets": soft}, {"labels": {}}, {"hidden_cosine": {"layer_map": "final"}})
    return [{**entry, "weight": weight} for entry, weight in zip(entries, weights, strict=True)]


def recipe_of(workload: Workload, folder: Path) -> Recipe:
    """The recipe of a workload, whose models are configurations in a folder."""
    for role, model in zip(("teacher", "student"), workload.models(), strict=True):
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder / role)
    text = {"text": {"task": TEXT.get(workload.kind), "train": [{"files": ["text.txt"]}]}}
    rows = {"files": {"train": "rows.jsonl"}, "text_columns": ["text"], "label_column": "label"}
    arguments = {**ARGUMENTS, "per_device_train_batch_size": workload.batch, "use_cpu": True}
    return Recipe.from_dict(
        {
            "schema": 1,
            "data": rows if workload.kind == "classifier" else text,
            "max_length": workload.length,
            "teacher": {"model": str(folder / "teacher")},
            "student": {"model": str(folder / "student")},
            "stages": [{"name": "distil", "objectives": terms(workload), "arguments": arguments}],
        }
    )


def foretell(name: str, scale: float) -> None:
    """Prints what doctor says of a workload, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(WORKLOADS[name].scaled(scale), Path(folder))
        ((_, expected),) = expected_costs(recipe, ["distil"])
    cost = expected.cost
    print(json.dumps({"seconds": cost.cpu_seconds, "megabytes": cost.peak_bytes / 2**20, "rows": expected.measured}))


def foretold(name: str, scale: float) -> dict[str, float]:
    """The same from a process of its own."""
    command = [sys.executable, __file__, name, "--scale", str(scale), "--foretell"]
    made = subprocess.run(
        command, env=environment(WORKLOADS[name].threads), check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(made.stdout.strip().splitlines()[-1])


def seen(name: str, scale: float, rounds: int) -> dict[str, float]:
    """The real steps."""
    with temporary(None) as folder:
        found = measure(WORKLOADS[name].scaled(scale), scale, ["hf_distill"], rounds, None, Path(folder))["hf_distill"]
    seconds = statistics.median(statistics.median(each) for each in found.rounds)
    return {"seconds": seconds, "megabytes": found.facts["resident_megabytes"] + found.facts["extra_megabytes"]}


HEAD = """
| | CPU ms foretold | seen | ratio | MB foretold | seen | ratio |
| --- | --- | --- | --- | --- | --- | --- |"""


def line(name: str, said: dict[str, float], real: dict[str, float]) -> str:
    """A row of the table."""
    cells = []
    for key, factor in (("seconds", 1000), ("megabytes", 1)):
        cells += [f"{factor * said[key]:.0f}", f"{factor * real[key]:.0f}", f"{said[key] / real[key]:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of width, batch, length and vocabulary")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--foretell", action="store_true", help="say what doctor says alone, as JSON")
    given = parser.parse_args()
    if given.foretell:
        foretell(given.workloads[0], given.scale)
        return
    results: dict[str, Any] = {}
    print(HEAD, flush=True)
    for name in given.workloads:
        results[name] = {"foretold": foretold(name, given.scale), "seen": seen(name, given.scale, given.rounds)}
        print(line(name, results[name]["foretold"], results[name]["seen"]), flush=True)
        if given.output:
            given.output.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
