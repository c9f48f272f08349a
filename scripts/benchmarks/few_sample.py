"""What do 100 sentences bring a student that was cut and never trained? Accuracy on SST-2, before and after.

    python scripts/benchmarks/few_sample.py --teacher FOLDER --dataset_dir FOLDER --seeds 1 2 3 --output FOLDER

`layers` is the teacher cut to fewer layers, with its embeddings and head; `neurons` keeps all layers and the half of
the feed-forward neurons that matter most on the sentences. Each is scored as it is, and corrected by
`students.recover` on the sentences, without labels. A seed draws the sentences; nothing was tuned on the validation
rows. A run that is in the output folder is not repeated. Results are in `results.json` and `results.md`.
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
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    TrainingArguments,
)

from hf_distill import DistillationTrainer, students
from hf_distill.anatomy import Anatomy
from hf_distill.data import glue
from hf_distill.data.tokenization import tokenize

CUTS = ("layers", "neurons")
TARGETS = ("none", "stream", "sublayer")


class Bench:
    """The teacher, the rows, and what is measured on them."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.teacher = AutoModelForSequenceClassification.from_pretrained(given.teacher, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(given.teacher)
        self.collator = DataCollatorWithPadding(self.tokenizer)
        splits = glue.task("sst2").load(given.dataset_dir, needed=("train", "validation")).splits
        self.rows = {
            name: tokenize(splits[name], self.tokenizer, ["sentence"], max_length=128)
            for name in ("train", "validation")
        }
        self.labels = np.asarray(self.rows["validation"]["labels"][:])

    def sentences(self, seed: int, size: int = 25) -> list[dict[str, Tensor]]:
        """Training sentences drawn by the seed, in batches, without their labels."""
        train, number = self.rows["train"], self.given.sentences
        drawn = np.random.default_rng(seed).choice(len(train), size=number, replace=False)
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in train.column_names]
        rows = [{name: train[int(i)][name] for name in names} for i in drawn]
        return [dict(self.collator(rows[first : first + size])) for first in range(0, number, size)]

    def student(self, cut: str, batches: list[dict[str, Tensor]]) -> tuple[PreTrainedModel, list[int] | None]:
        """A student before anything is corrected, and the teacher's layers that it has."""
        if cut == "neurons":
            inner = Anatomy.of(self.teacher).base.config.intermediate_size // 2
            return students.from_shape(
                self.teacher, intermediate_size=inner, initialisation="importance", calibration=batches
            ), None
        depth = Anatomy.of(self.teacher).shape.stack().num_hidden_layers
        number = self.given.layers
        kept = [(2 * i * depth + number) // (2 * number) for i in range(1, number + 1)]
        return students.from_layers(self.teacher, layers=kept), kept

    def accuracy(self, model: PreTrainedModel) -> float:
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder, per_device_eval_batch_size=64, use_cpu=not torch.cuda.is_available(),
                report_to="none", disable_tqdm=True,
            )  # fmt: skip
            trainer = DistillationTrainer(model=model, args=settings, data_collator=self.collator)
            logits = trainer.predict(self.rows["validation"]).predictions
        return float((logits.argmax(-1) == self.labels).mean())

    def run(self, cut: str, target: str, seed: int) -> dict[str, Any]:
        batches = self.sentences(seed)
        student, layers = self.student(cut, batches)
        started, found = time.perf_counter(), []
        if target != "none":
            found = students.recover(student, self.teacher, batches, layers=layers, target=target)
        seconds = time.perf_counter() - started
        return {
            "cut": cut,
            "target": target,
            "seed": seed,
            "accuracy": self.accuracy(student),
            "seconds": seconds,
            "blocks": [str(each) for each in found],
        }


def table(runs: list[dict[str, Any]], sentences: int) -> str:
    """Accuracy of every cut, untouched and corrected, in Markdown."""
    lines = ["| cut | corrected | seeds | accuracy | range | seconds |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for cut in CUTS:
        for target in TARGETS:
            mine = [run for run in runs if (run["cut"], run["target"]) == (cut, target)]
            if mine:
                scores = [run["accuracy"] for run in mine]
                lines.append(
                    f"| {cut} | {target} | {len(mine)} | {statistics.mean(scores):.4f} | {min(scores):.4f} to "
                    f"{max(scores):.4f} | {statistics.mean(run['seconds'] for run in mine):.1f} |"
                )
    return "\n".join([*lines, "", f"Corrected on {sentences} sentences without labels, a fifth of them held out."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    runs = Runs(
        given.output / "results.json", settings_of(given, "layers", "sentences"), key=("target", "cut", "seed")
    )
    bench = Bench(given)
    for target, cut, seed in runs.missing(TARGETS, CUTS, given.seeds):
        runs.add(bench.run(cut, target, seed))
        (given.output / "results.md").write_text(table(runs.found, given.sentences) + "\n")
        print(table(runs.found, given.sentences), flush=True)


if __name__ == "__main__":
    main()
