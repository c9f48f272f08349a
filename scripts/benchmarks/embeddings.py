"""Sentence encoders of fewer layers against their teacher, and against the same layers without any training.

    python scripts/benchmarks/embeddings.py --teacher FOLDER \\
        --texts stsb/train.jsonl.gz:sentence1,sentence2 snli/train.jsonl.gz:premise,hypothesis \\
        --pairs stsb/validation.jsonl --pair_columns sentence1,sentence2 --score_column label \\
        --layers 3 2 --objectives embedding_mse embedding_cosine --seeds 1 2 3 --steps 2000 --output FOLDER

Each trial is a run of its own in the output folder, `<objective>-<layers>-<seed>`: one that is finished is not trained
again, one that was broken off goes on. The training texts are every text of the files once, without those of the
pairs, and the same for all trials; they are written into the output folder. `summary.json` and `summary.md` hold the
teacher, each student as the mean over its seeds with the smallest and the largest, and the student at its start.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_distill.data.files import read
from hf_distill.runs import RunResult, run
from hf_distill.writing import write_whole

WEIGHTS = {"embedding_mse": 100.0}
"""Of an objective that is small beside 1; it changes nothing but the sizes in the log."""


def texts_of(source: str) -> Iterator[str]:
    """Every text of a file and its columns, `file:column,column`."""
    path, _, columns = source.rpartition(":")
    names = columns.split(",")
    table = read(path, names)
    for row in zip(*(table.columns[name] for name in names), strict=True):
        yield from (text.strip() for text in row if isinstance(text, str) and text.strip())


def write_texts(given: argparse.Namespace) -> Path:
    """The training texts, the same for all trials: those of other texts than before are refused by their runs."""
    path = Path(given.output, "train.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    judged = {*texts_of(f"{given.pairs}:{given.pair_columns}")}
    texts = dict.fromkeys(text for source in given.texts for text in texts_of(source) if text not in judged)
    write_whole(path, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    return path


def recipe_of(given: argparse.Namespace, train: Path, objective: str, layers: int, seed: int) -> dict[str, Any]:
    """The recipe of one trial."""
    arguments = {
        "max_steps": given.steps,
        "per_device_train_batch_size": given.batch,
        "learning_rate": given.learning_rate,
        "warmup_steps": 0.1,
        "logging_steps": 50,
        "save_steps": 500,
        "eval_strategy": "no",
    }
    settings = {"pool": "sentence"} if objective == "similarity_distribution" else {}
    cache = {"cache": {"folder": str(train.parent / "cache")}} if given.cache else {}
    columns = {"pair_columns": given.pair_columns.split(","), "score_column": given.score_column}
    return {
        "schema": 1,
        "data": {"files": {"train": str(train), "validation": given.pairs}, "embeddings": columns},
        "max_length": given.max_length,
        "max_samples": {"train": given.rows},
        "teacher": {"model": given.teacher, **cache},
        "student": {"from_layers": {"layers": layers}},
        "control": True,
        "seed": seed,
        "stages": [
            {
                "name": "distil",
                "objectives": [{objective: settings, "weight": WEIGHTS.get(objective, 1.0)}],
                "arguments": arguments,
            }
        ],
    }


def summarised(found: dict[tuple[str, int], list[RunResult]]) -> list[dict[str, Any]]:
    """A row a model: what it is, its layers, and each metric over the seeds."""
    rows: list[dict[str, Any]] = []
    for (objective, layers), results in found.items():
        roles = ("teacher", "control", "student") if not any(row["layers"] == layers for row in rows) else ("student",)
        first = results[0].metric
        for role in roles:
            name = objective if role == "student" else role
            values = {
                metric: [result.run(role).metrics[metric] for result in results]  # type: ignore[arg-type]
                for metric in sorted(results[0].run("student").metrics, key=lambda each: (each != first, each))
            }
            rows.append({"model": name, "layers": layers, "seeds": len(results), "metrics": values})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in markdown."""
    metrics = list(rows[0]["metrics"])
    lines = [f"| model | student's layers | seeds | {' | '.join(metrics)} |", "| --- " * (3 + len(metrics)) + "|"]
    for row in rows:
        cells = []
        for values in row["metrics"].values():
            spread = f" [{min(values):.4f}, {max(values):.4f}]" if len(set(values)) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        lines.append(f"| {row['model']} | {row['layers']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    given = arguments()
    train, output = write_texts(given), Path(given.output)
    found: dict[tuple[str, int], list[RunResult]] = {}
    for objective in given.objectives:
        for layers in given.layers:
            for seed in given.seeds:
                recipe = recipe_of(given, train, objective, layers, seed)
                found.setdefault((objective, layers), []).append(run(recipe, output / f"{objective}-{layers}-{seed}"))
                rows = summarised(found)
                (output / "summary.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                (output / "summary.md").write_text(table(rows), encoding="utf-8")
    print(table(summarised(found)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--texts", nargs="+", required=True, metavar="FILE:COLUMN,COLUMN")
    parser.add_argument("--pairs", required=True, help="the file of pairs that all are judged by")
    parser.add_argument("--pair_columns", default="sentence1,sentence2")
    parser.add_argument("--score_column", default="label")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 2])
    parser.add_argument("--objectives", nargs="+", default=["embedding_mse"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--max_length", type=int, default=64)
    parser.add_argument("--rows", type=int, help="training texts at most")
    parser.add_argument("--cache", action="store_true", help="write the teacher's vectors down once, for all trials")
    parser.add_argument("--output", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
