"""What do few bits cost on SST-2? A distilled 3-layer student at 32, 8, 4 and 2 bits, in accuracy and bytes.

    python scripts/benchmarks/quantised.py --teacher FOLDER --dataset_dir FOLDER --seeds 1 2 3 --output FOLDER

For each seed one student is distilled from the teacher's layers in floats. From there every arm goes on for another
epoch with the same batches in the same order, `32` in floats and the others by quantized distillation (0.7 soft
targets at temperature 2, 0.3 labels, buckets of 256; the classifier stays in floats). `rounded` puts the weights of
arm 32 on the grid without training there. `int8 export` is arm 32 in torchao's 8 bits, where that is installed. Bytes
are those of `quantized.safetensors`, of `model.safetensors` at 32 bits. The last step is kept, and no setting was
tuned on the validation rows. What is in the output folder is not done again. Results are in `results.json` and
`results.md`.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from runs import Runs, settings_of
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    TrainingArguments,
)

from hf_distill import DistillationTrainer, Labels, SoftTargets, students
from hf_distill.data import glue
from hf_distill.data.tokenization import tokenize
from hf_distill.evaluation.fidelity import wilson_interval
from hf_distill.hub.export import export_quantized
from hf_distill.hub.packed import write_packed

BITS = (8, 4, 2)
ARMS = ("32", *map(str, BITS), *(f"{bits} rounded" for bits in BITS), "int8 export")
AUTO = "AutoModelForSequenceClassification"


def arguments(given: argparse.Namespace, seed: int, folder: str, epochs: float, rate: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        seed=seed,
        num_train_epochs=epochs,
        max_steps=given.max_steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=rate,
        warmup_steps=0.06,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        bf16=given.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class Bench:
    """Models, rows and the folder of results."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.tokenizer = AutoTokenizer.from_pretrained(given.teacher)
        self.collator = DataCollatorWithPadding(self.tokenizer)
        splits = glue.task("sst2").load(given.dataset_dir, needed=("train", "validation")).splits
        if given.max_train_samples:
            splits["train"] = splits["train"].select(range(given.max_train_samples))
        self.rows: dict[str, Dataset] = {
            name: tokenize(splits[name], self.tokenizer, ["sentence"], max_length=128)
            for name in ("train", "validation")
        }
        self.labels = np.asarray(self.rows["validation"]["labels"][:])

    def teacher(self) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(self.given.teacher, dtype=torch.float32)

    def train(self, student: PreTrainedModel, seed: int, epochs: float, rate: float) -> PreTrainedModel:
        with tempfile.TemporaryDirectory() as folder:
            DistillationTrainer(
                model=student,
                teacher=self.teacher(),
                objectives=0.7 * SoftTargets(temperature=2.0) + 0.3 * Labels(),
                args=arguments(self.given, seed, folder, epochs, rate),
                train_dataset=self.rows["train"],
                processing_class=self.tokenizer,
                data_collator=self.collator,
            ).train()
        return student

    def floats(self, seed: int, stage: str) -> Path:
        """The folder of a seed's student in floats: `start`, or arm `32`, which goes on from it."""
        folder = self.given.output / "students" / f"{stage}-{seed}"
        if folder.is_dir():
            return folder
        if stage == "start":
            student = students.from_layers(self.teacher(), layers=self.given.layers)
            self.train(student, seed, self.given.epochs, 5e-5)
        else:
            student = self.train(self.student(self.floats(seed, "start")), seed, self.given.more_epochs, 2e-5)
        part = folder.with_name(f".{folder.name}.part")
        student.save_pretrained(part)
        self.tokenizer.save_pretrained(part)
        part.replace(folder)
        return folder

    def student(self, folder: Path) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)

    def accuracy(self, model: PreTrainedModel) -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = DistillationTrainer(
                model=model, args=arguments(self.given, 0, folder, 1, 0.0), data_collator=self.collator
            )
            logits = trainer.predict(self.rows["validation"]).predictions
        return float((logits.argmax(-1) == self.labels).mean())

    def batches(self, size: int = 32) -> Iterator[dict[str, Tensor]]:
        """The validation rows in batches, with labels."""
        names = ("input_ids", "attention_mask", "token_type_ids", "labels")
        rows = [{name: row[name] for name in names if name in row} for row in self.rows["validation"]]
        for first in range(0, len(rows), size):
            yield dict(self.collator(rows[first : first + size]))

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Accuracy and bytes of one arm."""
        if arm == "32":
            folder = self.floats(seed, "32")
            found = {"accuracy": self.accuracy(self.student(folder)), "bytes": size_of(folder, "model.safetensors")}
        elif arm == "int8 export":
            found = self.exported(seed)
        else:
            bits, rounded = int(arm.split()[0]), arm.endswith("rounded")
            student = students.quantize_uniform(
                self.student(self.floats(seed, "32" if rounded else "start")), bits=bits
            )
            if not rounded:
                self.train(student, seed, self.given.more_epochs, 2e-5)
            with tempfile.TemporaryDirectory() as folder:
                size = write_packed(student, folder).stat().st_size
            found = {"accuracy": self.accuracy(student), "bytes": size}
        return {"arm": arm, "seed": seed, **found}

    def exported(self, seed: int) -> dict[str, Any]:
        target = self.given.output / "students" / f"int8-{seed}"
        shutil.rmtree(target, ignore_errors=True)
        found = export_quantized(self.floats(seed, "32"), target, self.batches(), auto_class=AUTO, least_agreement=0.0)
        return {"accuracy": found.accuracy, "bytes": found.bytes, "agreement": found.agreement}


def size_of(folder: Path, name: str) -> int:
    return (folder / name).stat().st_size


def table(runs: list[dict[str, Any]], rows: int) -> str:
    """Accuracy, mean and range over seeds, and bytes of every arm, in Markdown."""
    whole = [run["bytes"] for run in runs if run["arm"] == "32"]
    lines = ["| bits | seeds | accuracy | range | MB | smaller by |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for arm in ARMS:
        mine = [run for run in runs if run["arm"] == arm]
        if not mine:
            continue
        scores, size = [run["accuracy"] for run in mine], statistics.mean(run["bytes"] for run in mine)
        ratio = f"{statistics.mean(whole) / size:.1f} x" if whole else "-"
        lines.append(
            f"| {arm} | {len(mine)} | {statistics.mean(scores):.4f} | {min(scores):.4f} to {max(scores):.4f} | "
            f"{size / 1e6:.1f} | {ratio} |"
        )
    best = max((run["accuracy"] for run in runs), default=0.0)
    interval = wilson_interval(round(best * rows), rows)
    half = (interval.high - interval.low) / 2
    return "\n".join([*lines, "", f"{rows} validation rows; the 95 % interval of one run is about ± {half:.4f}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--more_epochs", type=float, default=1.0)
    parser.add_argument("--max_steps", type=int, default=-1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--max_train_samples", type=int)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    arms = ARMS if importlib.util.find_spec("torchao") else ARMS[:-1]
    asked = ("layers", "epochs", "more_epochs", "max_steps", "bf16", "max_train_samples")
    runs = Runs(given.output / "results.json", settings_of(given, *asked))
    bench = Bench(given)
    for arm, seed in runs.missing(arms, given.seeds):
        runs.add(bench.run(arm, seed))
        (given.output / "results.md").write_text(table(runs.found, len(bench.labels)) + "\n")
        print(table(runs.found, len(bench.labels)), flush=True)


if __name__ == "__main__":
    main()
