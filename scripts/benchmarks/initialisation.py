"""Which start is better for a student of another shape: random weights, or the teacher's cut by importance?

    python scripts/benchmarks/initialisation.py --teacher FOLDER --dataset_dir FOLDER --seeds 1 2 3 --output FILE.json

On SST-2. Every arm has the same shape, sees the same batches in the same order and uses the same arguments; only the
weights before the first step differ. Accuracy on the validation rows is taken before training and at each quarter of
it; nothing is chosen by it. A run that is in the output file is not repeated.

Arms: `random`; `importance`, cut on the first 256 training rows in batches of 32; `noise`, cut by what is measured on
rows of random tokens, which tells how much the choice of the dimensions matters beside the teacher's weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from runs import Runs, settings_of
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    TrainingArguments,
)

from hf_distill import DistillationTrainer, Labels, SoftTargets, students
from hf_distill.data import glue
from hf_distill.data.tokenization import tokenize

ARMS = ("random", "noise", "importance")
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
QUARTERS = 4


def batches(rows: Dataset, collator: Any, number: int = 256, size: int = 32) -> list[dict[str, Tensor]]:
    """The first rows in batches, without their labels."""
    names = [name for name in rows.column_names if name in ("input_ids", "attention_mask", "token_type_ids")]
    taken = [{name: row[name] for name in names} for row in rows.select(range(min(number, len(rows))))]
    return [dict(collator(taken[i : i + size])) for i in range(0, len(taken), size)]


def noise(given: list[dict[str, Tensor]], vocabulary: int, seed: int) -> list[dict[str, Tensor]]:
    """Batches of the same lengths, each token drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(vocabulary, batch["input_ids"].shape, generator=generator) for batch in given]
    return [{**batch, "input_ids": ids} for batch, ids in zip(given, drawn, strict=True)]


def student_of(arm: str, seed: int, given: argparse.Namespace, teacher: PreTrainedModel, rows: Any) -> PreTrainedModel:
    """A student before training."""
    torch.manual_seed(seed)
    sizes = {name: getattr(given, name) for name in SIZES if getattr(given, name) is not None}
    if arm == "random":
        return students.from_shape(teacher, **sizes)
    calibration = noise(rows, teacher.config.vocab_size, seed) if arm == "noise" else rows
    return students.from_shape(teacher, initialisation="importance", calibration=calibration, **sizes)


def accuracy(found: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def arguments(given: argparse.Namespace, seed: int, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        seed=seed,
        num_train_epochs=given.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=given.learning_rate,
        warmup_steps=0.06,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=1 / QUARTERS,
        bf16=given.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def one_run(arm: str, seed: int, given: argparse.Namespace, data: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Trains one student; the validation accuracy before, and at each quarter."""
    teacher = AutoModelForSequenceClassification.from_pretrained(given.teacher, dtype=torch.float32)
    collator = DataCollatorWithPadding(tokenizer)
    student = student_of(arm, seed, given, teacher, batches(data["train"], collator))
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            teacher=teacher,
            objectives=0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels(),
            args=arguments(given, seed, folder),
            train_dataset=data["train"],
            eval_dataset=data["validation"],
            processing_class=tokenizer,
            data_collator=collator,
            compute_metrics=accuracy,
        )
        before = trainer.evaluate()["eval_accuracy"]
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    after = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": [before, *after[-QUARTERS:]],
        "parameters": student.num_parameters(),
        "steps": trainer.state.global_step,
        "seconds": seconds,
    }


def summary(runs: list[dict[str, Any]]) -> str:
    """Mean accuracy of each arm before training and at each quarter, and the last of each seed."""
    lines = [f"{'arm':11} {'before':>7} {'1/4':>7} {'1/2':>7} {'3/4':>7} {'end':>7}  end of each seed"]
    for arm in ARMS:
        rows = [run for run in runs if run["arm"] == arm]
        if not rows:
            continue
        means = [statistics.mean(values) for values in zip(*(run["accuracy"] for run in rows), strict=True)]
        each = ", ".join(f"{run['seed']}: {run['accuracy'][-1]:.4f}" for run in rows)
        lines.append(f"{arm:11} {' '.join(f'{mean:7.4f}' for mean in means)}  {each}")
    ends = {(run["arm"], run["seed"]): run["accuracy"][-1] for run in runs}
    for other in ("random", "noise"):
        seeds = [seed for arm, seed in ends if arm == other and ("importance", seed) in ends]
        differences = [ends["importance", seed] - ends[other, seed] for seed in seeds]
        if len(differences) > 1:
            mean, deviation = statistics.mean(differences), statistics.stdev(differences)
            lines.append(f"importance - {other}: {mean:+.4f} (standard deviation over seeds {deviation:.4f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--max_train_samples", type=int)
    parser.add_argument("--output", type=Path, required=True)
    for name, size in zip(SIZES, (3, 192, 12, 768), strict=True):
        parser.add_argument(f"--{name}", type=int, default=size)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(given.teacher)
    splits = glue.task("sst2").load(given.dataset_dir, needed=("train", "validation")).splits
    if given.max_train_samples:
        splits["train"] = splits["train"].select(range(given.max_train_samples))
    data = {name: tokenize(splits[name], tokenizer, ["sentence"], max_length=128) for name in ("train", "validation")}
    runs = Runs(given.output, settings_of(given, "epochs", "learning_rate", "bf16", "max_train_samples", *SIZES))
    for arm, seed in runs.missing(ARMS, given.seeds):
        runs.add(one_run(arm, seed, given, data, tokenizer))
        print(summary(runs.found), flush=True)


if __name__ == "__main__":
    main()
