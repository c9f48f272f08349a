"""What padding costs: batches padded to a fixed length, to their longest row, grouped by length, or cut by a budget.

    python scripts/benchmarks/batches.py --tokenizer FOLDER --dataset_dir FOLDER [--steps 40] [--rounds 3]

Cells for a real token are counted exactly over all training rows of SST-2. Then a 3-layer student learns from a
6-layer teacher (384 wide, random weights, 0.5 CE + 0.5 T^2 KL at T = 2) from the first batches of an epoch of each
kind, whose order is random but for the first one, which is not counted. The mean of their CPU seconds, times the steps
of an epoch, is what the epoch costs; rounds take other epochs and rotate the order.

`--profile` shows instead of the epochs' costs how long torch's operators take in a step padded to 128 and in one of
length groups; give it one thread (OMP_NUM_THREADS=1), whose time is all there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from hf_distill import DistillationTrainer
from hf_distill.data import glue
from hf_distill.data.batching import LengthGroupedSampler, TokenBudgetSampler
from hf_distill.data.tokenization import tokenize

FIXED = 128
SHOWN = 14
"""Operators in the table of a profile."""
KINDS = ("padded to 128", "longest of a random batch", "length groups", "token budget")


class Steps(TrainerCallback):
    """CPU seconds of every step but the first."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.seconds: list[float] = []
        self._since = 0.0

    @property
    def mean(self) -> float:
        return statistics.mean(self.seconds)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.process_time()
        if state.global_step > 1:
            self.seconds.append(now - self._since)
        self._since = now
        control.should_training_stop = len(self.seconds) >= self.wanted


class Operators(TrainerCallback):
    """Milliseconds of each of torch's operators in a step on average, without what it calls; of all steps but the
    first."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.found: dict[str, float] = {}
        self._profile = profile(activities=[ProfilerActivity.CPU])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self._profile.start()
        elif state.global_step == self.wanted + 1:
            self._profile.stop()
            events = self._profile.key_averages()
            self.found = {event.key: event.self_cpu_time_total / 1000 / self.wanted for event in events}
            control.should_training_stop = True


def model(layers: int, tokenizer: PreTrainedTokenizerBase) -> BertForSequenceClassification:
    torch.manual_seed(layers)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=384,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=1536,
            initializer_range=0.05,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def train(
    kind: str,
    seed: int,
    given: argparse.Namespace,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    watch: TrainerCallback,
) -> None:
    """Trains on batches of a kind until the callback ends it."""
    fixed = {"padding": "max_length", "max_length": FIXED} if kind == KINDS[0] else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=model(3, tokenizer),
            teacher=model(6, tokenizer),
            args=TrainingArguments(
                output_dir=folder,
                seed=seed,
                num_train_epochs=1,
                per_device_train_batch_size=given.batch_size,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                max_grad_norm=0.0,
                train_sampling_strategy="group_by_length" if kind == KINDS[2] else "random",
                use_cpu=True,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer, **fixed),
            tokens_per_batch=given.tokens if kind == KINDS[3] else None,
            callbacks=[watch],
        )
        trainer.train()


def cut(order: Iterable[int], size: int) -> Iterator[list[int]]:
    rows = list(order)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def counted(lengths: np.ndarray, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Cells for a real token, and steps, of a whole epoch."""
    order = np.random.default_rng(0).permutation(len(lengths)).tolist()
    batches = {
        KINDS[0]: list(cut(order, given.batch_size)),
        KINDS[1]: list(cut(order, given.batch_size)),
        KINDS[2]: list(cut(LengthGroupedSampler(lengths, given.batch_size), given.batch_size)),
        KINDS[3]: list(TokenBudgetSampler(lengths, given.tokens)),
    }
    found = {}
    for kind, drawn in batches.items():
        cells = sum(len(batch) * (FIXED if kind == KINDS[0] else int(lengths[batch].max())) for batch in drawn)
        found[kind] = {"cells_per_token": cells / int(lengths.sum()), "steps": len(drawn)}
    return found


def table(epoch: dict[str, dict[str, float]], runs: list[dict[str, Any]]) -> str:
    lines = [
        "| batches | cells / real token | steps / epoch | CPU-s / 1,000 sentences | / padded to 128 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        mine = {run["round"]: run["seconds"] for run in runs if run["kind"] == kind}
        base = {run["round"]: run["seconds"] for run in runs if run["kind"] == KINDS[0]}
        ratios = [mine[number] / base[number] for number in mine.keys() & base.keys()]
        figures = (
            f"{statistics.median(mine.values()):.1f}" if mine else "-",
            (f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]" if ratios else "-"),
        )
        one = epoch[kind]
        lines.append(f"| {kind} | {one['cells_per_token']:.3f} | {one['steps']} | {figures[0]} | {figures[1]} |")
    return "\n".join(lines)


def profiled(given: argparse.Namespace, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> str:
    """The table of operators, the dearest of a step in length groups first."""
    found = {}
    for kind in (KINDS[0], KINDS[2]):
        watch = Operators(given.steps)
        train(kind, 0, given, rows, tokenizer, watch)
        found[kind] = watch.found
    padded, grouped = found.values()
    shown = sorted(grouped, key=lambda name: -grouped[name])[:SHOWN]
    lines = [f"| operator | {KINDS[0]}: ms / step | {KINDS[2]}: ms / step | ratio |", "| --- | --- | --- | --- |"]
    for name in [*shown, "all"]:
        one, other = (sum(each.values()) if name == "all" else each.get(name, 0.0) for each in (padded, grouped))
        lines.append(f"| {name} | {one:.1f} | {other:.1f} | {other / one if one else float('inf'):.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokenizer", required=True, help="a folder or an id on the Hub")
    parser.add_argument("--dataset_dir", required=True, help="a folder with SST-2's files")
    parser.add_argument("--steps", type=int, default=40, help="steps that are timed in each run; 0 counts cells alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1024, help="the budget of a batch")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", action="store_true", help="show the operators of --steps steps, and end")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    splits = glue.task("sst2").load(given.dataset_dir, needed=("train",)).splits
    rows = tokenize(splits["train"], tokenizer, ["sentence"], max_length=FIXED)
    if given.profile:
        print(profiled(given, rows, tokenizer))
        return
    epoch = counted(np.asarray(rows["length"][:]), given)
    runs: list[dict[str, Any]] = []
    for number in range(given.rounds if given.steps else 0):
        for kind in (*KINDS[number % len(KINDS) :], *KINDS[: number % len(KINDS)]):
            steps = Steps(given.steps)
            train(kind, number, given, rows, tokenizer, steps)
            seconds = 1000 * steps.mean * epoch[kind]["steps"] / len(rows)
            runs.append({"kind": kind, "round": number, "seconds": seconds})
            print(f"{kind}: {steps.mean:.3f} CPU-s / step, {seconds:.2f} CPU-s / 1,000 sentences", flush=True)
    print(table(epoch, runs))
    if given.output is not None:
        settings = {name: getattr(given, name) for name in ("steps", "batch_size", "tokens")}
        settings |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        given.output.write_text(json.dumps({"settings": settings, "epoch": epoch, "runs": runs}))


if __name__ == "__main__":
    main()
