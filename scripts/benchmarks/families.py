"""Does distillation help, and which family's? Three-layer students of a six-layer teacher, by every recipe in
`recipes/comparisons`, against the same student on the labels alone.

    python scripts/benchmarks/families.py --task sst2 --teacher FOLDER --dataset_dir FOLDER --output_dir FOLDER
    python scripts/benchmarks/families.py --task stsb --base FOLDER --dataset_dir FOLDER --output_dir FOLDER
    python scripts/benchmarks/families.py --task rte --base FOLDER --before FOLDER --dataset_dir FOLDER \\
        --output_dir FOLDER

`--base` is a pre-trained encoder out of which the teacher is fine-tuned first, once, in `output_dir/teacher`. RTE has
too few rows to begin with: `--before` names a folder with SNLI (train.jsonl.gz and validation.jsonl.gz; premise,
hypothesis, label), on whose training rows the encoder is fine-tuned before that of the teacher. All
students start from the teacher's layers 2, 4 and 6, see the same batches in the same order, and use the same
arguments in each stage; the last step is kept, and nothing is chosen or tuned on the validation rows. Called again it
goes on where it stopped, and trains nothing that stands in `--results` (those of the tables are in `results/`);
`--report` prints the table of what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from kept import Kept
from transformers import AutoModel, AutoTokenizer

from hf_distill import Recipe, run

METHODS = ("soft_targets", "distilbert", "pkd", "tinybert", "minilm_v2", "labels_twice")
"""The last is a control as well: the labels alone for as many epochs as the two stages of tinybert and minilm_v2."""

EPOCHS = {"sst2": 1, "rte": 3, "stsb": 2}
METRIC = {"sst2": "eval_accuracy", "rte": "eval_accuracy", "stsb": "eval_spearmanr"}

ON_SCORES: dict[str, dict[str, Any]] = {
    "pkd": {"stages.distil.objectives.soft_targets.soft_targets": {}},
    "tinybert": {"stages.prediction.objectives": [{"labels": {}}]},
}
"""What a recipe for classes changes where the labels are scores: the squared difference of two scores has no
temperature and is a mean over elements already, and TinyBERT's prediction stage takes the labels."""


def fine_tuned(given: argparse.Namespace) -> str:
    """The teacher: as given, or trained from the base on the labels."""
    if given.teacher:
        return str(given.teacher)
    base = inference_encoder(given) if given.before else given.base
    folder = Path(given.output_dir, "teacher")
    run(labels_alone(base, 2 * EPOCHS[given.task], {"task": given.task, "dataset_dir": given.dataset_dir}), folder)
    return str(folder)


def inference_encoder(given: argparse.Namespace) -> str:
    """The base after fine-tuning on natural language inference, without the head of that task."""
    folder, encoder = Path(given.output_dir, "before"), Path(given.output_dir, "encoder")
    if not (encoder / "config.json").is_file():
        files = {part: str(Path(given.before, f"{part}.jsonl.gz")) for part in ("train", "validation")}
        columns = {"text_columns": ["premise", "hypothesis"], "label_column": "label"}
        names = {"label_names": ["entailment", "neutral", "contradiction"]}
        run(labels_alone(given.base, 2, {"data": {"files": files, **columns, **names}}), folder)
        AutoTokenizer.from_pretrained(folder).save_pretrained(encoder)
        AutoModel.from_pretrained(folder).save_pretrained(encoder)
    return str(encoder)


def labels_alone(model: str, epochs: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a model that is fine-tuned on the labels."""
    arguments = {
        "num_train_epochs": epochs,
        "learning_rate": 1e-4,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "per_device_train_batch_size": 32,
    }
    stage = {"name": "labels", "objectives": [{"labels": {}}], "arguments": arguments}
    return {"schema": 1, **data, "max_length": 128, "student": {"model": model}, "stages": [stage], "seed": 0}


def changes(given: argparse.Namespace, recipe: Recipe, teacher: str, seed: int) -> dict[str, Any]:
    """What this task, teacher and seed change in a recipe, whatever its method."""
    found: dict[str, Any] = {
        "task": given.task,
        "dataset_dir": given.dataset_dir,
        "teacher.model": teacher,
        "seed": seed,
        "control": recipe.control,
    }
    for stage in recipe.stages:
        place = f"stages.{stage.name}.arguments"
        found |= {f"{place}.num_train_epochs": EPOCHS[given.task], f"{place}.save_strategy": "no"}
    return found


def train(given: argparse.Namespace, kept: Kept) -> None:
    left = [(m, seed) for seed in given.seeds for m in given.methods if f"{m}/{seed}" not in kept.scores]
    teacher = fine_tuned(given) if left else ""
    for method, seed in left:
        recipe = Recipe.load(f"comparisons/{method}")
        folder = Path(given.output_dir, method, str(seed))
        on_scores = ON_SCORES.get(method, {}) if given.task == "stsb" else {}
        run(recipe.override(changes(given, recipe, teacher, seed) | on_scores), folder)
        found = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
        scores = {name: score for name, score in found.items() if name.endswith(METRIC[given.task])}
        kept.add(f"{method}/{seed}", scores)
        print(table(given.task, kept), flush=True)


def row(title: str, scores: list[float]) -> str:
    spread = f" ({statistics.stdev(scores):.4f})" if len(scores) > 1 else ""
    return f"| {title} | {statistics.mean(scores):.4f}{spread} | {', '.join(f'{score:.4f}' for score in scores)} |"


def table(task: str, kept: Kept) -> str:
    """One row a method: mean, standard deviation and every seed."""
    metric = METRIC[task]
    lines = [
        f"| {task} | {metric.removeprefix('eval_')}, mean (standard deviation) | each seed |",
        "| --- | --- | --- |",
    ]
    for method in METHODS:
        found = kept.of(method)
        if not found:
            continue
        if method == METHODS[0]:
            lines.append(row("teacher", [found[0][f"teacher_{metric}"]]))
            lines.append(row("control", [each[f"control_{metric}"] for each in found]))
        lines.append(row(method, [each[metric] for each in found]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=sorted(EPOCHS), required=True)
    teacher = parser.add_mutually_exclusive_group(required=True)
    teacher.add_argument("--teacher")
    teacher.add_argument("--base")
    parser.add_argument("--before", help="a folder with SNLI, for a teacher of RTE")
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--results", type=Path, help="by default results.json in output_dir")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--report", action="store_true", help="train nothing")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    kept = Kept(given.results or Path(given.output_dir, "results.json"))
    if not given.report:
        train(given, kept)
    print(table(given.task, kept))


if __name__ == "__main__":
    main()
