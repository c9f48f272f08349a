"""Does distillation help on SST-2? A 3-layer student with a fixed teacher against the same student on the labels
alone.

    python scripts/benchmarks/sst2.py --teacher FOLDER --dataset_dir FOLDER --seeds 1 2 3 --output FILE.json

Both arms start from the teacher's layers 2, 4 and 6 with its embeddings and head, see the same batches in the same
order and use the same arguments; only the loss differs. The last step is kept: nothing is chosen by the validation
score, and no setting was tuned on it. A run that is in the output file is not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from runs import Runs, settings_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

from hf_distill import DistillationTrainer, Labels, SoftTargets, students
from hf_distill.data import glue
from hf_distill.data.tokenization import tokenize
from hf_distill.evaluation.fidelity import agreement, expected_calibration_error, mcnemar_p_value, wilson_interval

ARMS = ("control", "student")


def arguments(given: argparse.Namespace, seed: int, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        seed=seed,
        num_train_epochs=given.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=5e-5,
        warmup_steps=0.06,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        bf16=given.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=200,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def one_run(arm: str, seed: int, given: argparse.Namespace, data: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    teacher = AutoModelForSequenceClassification.from_pretrained(given.teacher, dtype=torch.float32)
    student = students.from_layers(teacher, layers=3)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            teacher=teacher if arm == "student" else None,
            objectives=0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels() if arm == "student" else Labels(),
            args=arguments(given, seed, folder),
            train_dataset=data["train"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        cpu, wall = time.process_time(), time.perf_counter()
        trainer.train()
        spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        logits = trainer.predict(data["validation"]).predictions
        teacher_logits = (
            DistillationTrainer(
                model=teacher, args=arguments(given, seed, folder), data_collator=DataCollatorWithPadding(tokenizer)
            )
            .predict(data["validation"])
            .predictions
        )
    labels = np.asarray(data["validation"]["labels"][:])
    correct = logits.argmax(-1) == labels
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": float(correct.mean()),
        "agreement": float(agreement(logits, teacher_logits)),
        "calibration_error": float(expected_calibration_error(logits, labels)),
        "teacher_accuracy": float((teacher_logits.argmax(-1) == labels).mean()),
        "correct": correct.astype(int).tolist(),
        "steps": trainer.state.global_step,
        **spent,
    }


def summary(runs: list[dict[str, Any]]) -> str:
    lines = [f"{'arm':8} {'seeds':>5} {'accuracy':>9} {'spread':>15} {'agreement':>9} {'ECE':>6} {'CPU s':>7}"]
    for arm in ARMS:
        rows = [run for run in runs if run["arm"] == arm]
        if not rows:
            continue
        scores = [run["accuracy"] for run in rows]
        means = {
            key: statistics.mean(run[key] for run in rows) for key in ("agreement", "calibration_error", "cpu_seconds")
        }
        lines.append(
            f"{arm:8} {len(rows):5d} {statistics.mean(scores):9.4f} [{min(scores):.4f}, {max(scores):.4f}] "
            f"{means['agreement']:9.4f} {means['calibration_error']:6.4f} {means['cpu_seconds']:7.0f}"
        )
    by_seed = {arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in ARMS}
    for seed in sorted(set(by_seed["control"]) & set(by_seed["student"])):
        pair = [np.asarray(by_seed[arm][seed]["correct"], bool) for arm in ("student", "control")]
        difference = pair[0].mean() - pair[1].mean()
        lines.append(f"seed {seed}: student - control {difference:+.4f}, McNemar p = {mcnemar_p_value(*pair):.3f}")
    if runs:
        size = len(runs[0]["correct"])
        interval = wilson_interval(round(runs[0]["teacher_accuracy"] * size), size)
        lines.append(
            f"teacher {runs[0]['teacher_accuracy']:.4f} [{interval.low:.4f}, {interval.high:.4f}], n = {size}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--max_train_samples", type=int)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(given.teacher)
    splits = glue.task("sst2").load(given.dataset_dir, needed=("train", "validation")).splits
    if given.max_train_samples:
        splits["train"] = splits["train"].select(range(given.max_train_samples))
    data = {name: tokenize(splits[name], tokenizer, ["sentence"], max_length=128) for name in ("train", "validation")}
    runs = Runs(given.output, settings_of(given, "epochs", "bf16", "max_train_samples"))
    for arm, seed in runs.missing(ARMS, given.seeds):
        runs.add(one_run(arm, seed, given, data, tokenizer))
        print(summary(runs.found), flush=True)


if __name__ == "__main__":
    main()
