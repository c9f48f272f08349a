"""Does distillation on unlabelled text help before the same fine-tuning?

    python scripts/benchmarks/pretraining.py relations --base FOLDER --text FILES --data FOLDER --output_dir FOLDER
    python scripts/benchmarks/pretraining.py mobilebert --base FOLDER --text FILES --data FOLDER --output_dir FOLDER

`--base` is a pre-trained encoder, `--text` unlabelled text (.jsonl with `text`), `--data` a folder with the GLUE
tasks in folders of their own.

`relations`: a student of three layers, embeddings and first layer the base's and the upper two random, is fine-tuned
as it is (`start`), or after the recipe `comparisons/relations`. `mobilebert`: a small MobileBERT is fine-tuned as it
is (`start`), or after `comparisons/mobilebert_joint` or `comparisons/mobilebert_progressive`.

There is one pre-training a way; every fine-tuning is repeated with every seed, by the same arguments. The last step
is kept, and nothing is chosen or tuned on the validation rows. Called again it goes on where it stopped, and trains
nothing that stands in `--results` (those of the tables are in `results/`); `--report` prints the table of what is
there.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from kept import Kept
from torch import nn
from transformers import AutoModel, AutoTokenizer

from hf_distill import Recipe, run, students

WAYS = {"relations": ("relations",), "mobilebert": ("mobilebert_joint", "mobilebert_progressive")}

EPOCHS = {"sst2": 1, "rte": 3}


def with_random_upper_layers(base: str) -> nn.Module:
    """The base's first three layers; the second and third with new weights."""
    torch.manual_seed(0)
    student = students.from_layers(AutoModel.from_pretrained(base), layers=[1, 2, 3])
    for layer in student.encoder.layer[1:]:
        layer.apply(student._init_weights)
    return student


def small_mobilebert(base: str) -> nn.Module:
    """The student of the recipes before training."""
    torch.manual_seed(0)
    settings = Recipe.load("comparisons/mobilebert_joint").student.mobilebert
    assert settings is not None
    return students.mobilebert(AutoModel.from_pretrained(base), **settings.model_dump(exclude_none=True))


START = {"relations": with_random_upper_layers, "mobilebert": small_mobilebert}


def start(given: argparse.Namespace) -> Path:
    """The folder of the student before any training."""
    folder = Path(given.output_dir, "start")
    if not (folder / "config.json").is_file():
        START[given.comparison](given.base).save_pretrained(folder)
        AutoTokenizer.from_pretrained(given.base).save_pretrained(folder)
    return folder


def pre_train(given: argparse.Namespace, way: str, begun: Path) -> Path:
    """The folder of the student after the recipe."""
    folder = Path(given.output_dir, way)
    changes: dict[str, Any] = {"data.text.train": [{"files": given.text}], "teacher.model": given.base, "seed": 0}
    if given.comparison == "relations":
        changes["student.model"] = str(begun)
    if given.steps is not None:
        recipe = Recipe.load(f"comparisons/{way}")
        changes |= {f"stages.{i}.arguments.max_steps": given.steps for i in range(len(recipe.stages))}
    run(Recipe.load(f"comparisons/{way}").override(changes), folder)
    return folder


def fine_tune(given: argparse.Namespace, kept: Kept, way: str, begun: Path, task: str, seed: int) -> None:
    arguments = {
        "num_train_epochs": EPOCHS[task],
        "learning_rate": 1e-4,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "per_device_train_batch_size": 32,
        "save_strategy": "no",
    }
    recipe = {
        "schema": 1,
        "task": task,
        "dataset_dir": str(Path(given.data, task)),
        "max_length": 128,
        "student": {"model": str(begun)},
        "stages": [{"name": "labels", "objectives": [{"labels": {}}], "arguments": arguments}],
        "seed": seed,
    }
    found = run(recipe, Path(given.output_dir, "fine_tuned", way, task, str(seed))).metrics
    kept.add(f"{way}/{task}/{seed}", {"eval_accuracy": found["eval_accuracy"]})


def train(given: argparse.Namespace, kept: Kept) -> None:
    begun = start(given)
    for way in ["start", *WAYS[given.comparison]]:
        trials = [(task, seed) for task in EPOCHS for seed in given.seeds]
        left = [(task, seed) for task, seed in trials if f"{way}/{task}/{seed}" not in kept.scores]
        if not left:
            continue
        folder = begun if way == "start" else pre_train(given, way, begun)
        for task, seed in left:
            fine_tune(given, kept, way, folder, task, seed)
            print(table(kept, given.comparison), flush=True)


def table(kept: Kept, comparison: str) -> str:
    """Accuracy of every way on every task: mean, standard deviation, and each seed."""
    lines = [
        "| before fine-tuning | task | accuracy, mean (standard deviation) | each seed |",
        "| --- | --- | --- | --- |",
    ]
    for task in EPOCHS:
        for way in ("start", *WAYS[comparison]):
            scores = [each["eval_accuracy"] for each in kept.of(f"{way}/{task}")]
            if not scores:
                continue
            spread = f" ({statistics.stdev(scores):.4f})" if len(scores) > 1 else ""
            each = ", ".join(f"{score:.4f}" for score in scores)
            lines.append(f"| {way} | {task} | {statistics.mean(scores):.4f}{spread} | {each} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("comparison", choices=sorted(WAYS))
    parser.add_argument("--base", required=True)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--results", type=Path, help="by default results.json in output_dir")
    parser.add_argument("--steps", type=int, help="pre-training steps of each stage, in place of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    kept = Kept(given.results or Path(given.output_dir, "results.json"))
    if not given.report:
        train(given, kept)
    print(table(kept, given.comparison))


if __name__ == "__main__":
    main()
