"""What a teacher's cache saves and costs: steps that read the teacher from the disk against steps that run it, and how
fast rows are read.

    python scripts/benchmarks/cache.py steps --teacher_layers 6 12
    python scripts/benchmarks/cache.py read --width 576 --vocabulary 49152

`steps`: 32 x 64 tokens, 384 wide, 3-layer student, 0.5 CE + 0.5 T^2 KL at T = 2, fused AdamW, 2 threads. The cache is
complete, as it is from the second epoch on. The two trainers take turns round by round, in rotated order; a step lies
between two ends of steps, reading included; CPU seconds of the process, medians over rounds of the medians in a round,
with a bootstrap interval. The students' weights after a round are compared.

`read`: rows of 128 tokens in random order, batches of 32, one reader, one thread; bytes are those of the cache.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import transformers
from datasets import disable_progress_bars
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainerCallback, TrainingArguments

from hf_distill import DistillationTrainer, Labels, SoftTargets
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.folder import CONFIG, FORMAT, TABLES, CacheFolder, Facts, SignalFacts
from hf_distill.teachers.cache.keys import KEY_BYTES
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.reader import CacheReader
from hf_distill.teachers.cache.shards import arrived, shard_bytes

BATCH, LENGTH, BATCHES = 32, 64, 6
STEPS = 5
"""Steps of a round, of which the first is not timed."""

ROWS, TOKENS = 512, 128


def interval(values: list[float]) -> str:
    """The median with its 95 % bootstrap interval."""
    generator = np.random.default_rng(0)
    drawn = np.median(generator.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{statistics.median(values):.3f} [{low:.3f}, {high:.3f}]"


# ---- steps ----


def classifier(layers: int) -> nn.Module:
    """A random BERT classifier without dropout."""
    torch.manual_seed(layers)
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": layers}
    config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.05)
    return BertForSequenceClassification(config)


def rows() -> list[dict[str, Any]]:
    """Rows of one length, so that nothing is padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (BATCH * BATCHES, LENGTH), generator=generator).tolist()
    return [{"input_ids": row, "attention_mask": [1] * LENGTH, "labels": i % 2} for i, row in enumerate(ids)]


def together(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch."""
    return {name: torch.tensor([item[name] for item in items]) for name in items[0]}


class Times(TrainerCallback):
    """CPU seconds at the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def a_round(layers: int, cache: Path | None) -> tuple[float, nn.Module]:
    """The median CPU seconds of a step, and the student."""
    times = Times()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        weight_decay=0.01,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = DistillationTrainer(
        model=classifier(3),
        teacher=classifier(layers),
        objectives=0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels(),
        args=arguments,
        train_dataset=rows(),
        data_collator=together,
        callbacks=[times],
    )
    trainer.remove_callback(PrinterCallback)
    if cache is not None:
        trainer.cache_teacher(cache)
    trainer.train()
    spans = [after - before for before, after in zip(times.ends, times.ends[1:], strict=False)]
    return statistics.median(spans), trainer.model


def steps(teacher_layers: list[int], rounds: int, folder: Path) -> None:
    """Prints a line for each teacher."""
    torch.set_num_threads(2)
    print("| teacher | CPU s with the teacher | with its cache | ratio | weights differ by at most |")
    print("| --- | --- | --- | --- | --- |")
    for layers in teacher_layers:
        cache = folder / f"teacher-{layers}"
        a_round(layers, cache)  # writes it
        found: dict[bool, list[float]] = {False: [], True: []}
        models: dict[bool, nn.Module] = {}
        for number in range(rounds):
            for cached in (False, True) if number % 2 == 0 else (True, False):
                seconds, models[cached] = a_round(layers, cache if cached else None)
                found[cached].append(seconds)
        ratios = [with_cache / without for without, with_cache in zip(found[False], found[True], strict=True)]
        pairs = zip(models[False].parameters(), models[True].parameters(), strict=True)
        largest = max(float((a - b).detach().abs().max()) for a, b in pairs)
        medians = [statistics.median(found[cached]) for cached in (False, True)]
        print(f"| {layers} layers | {medians[0]:.3f} | {medians[1]:.3f} | {interval(ratios)} | {largest:.1e} |")


# ---- reading ----


def made_cache(folder: Path, name: str, settings: dict[str, Any], width: int) -> tuple[CacheReader, Any]:
    """A cache of random rows in one signal, and its codec; of states, or with `top_k` of logits."""
    torch.manual_seed(0)
    codec = codecs.make(name, settings)
    codec.fit(torch.randn(2048, width))
    signal = SignalFacts(name="final", by_token=True, width=width, codec=name, settings=codec.settings())
    cache = CacheFolder(folder)
    folder.mkdir(parents=True)
    facts = Facts(
        format=FORMAT, fingerprint={"precision": "float32"}, class_name="", columns=[], signals=[signal], files={}
    )
    cache.begin(facts, {CONFIG: b"{}", TABLES: b""})
    lengths = np.full(ROWS, TOKENS, dtype=np.int64)
    keys = [number.to_bytes(KEY_BYTES, "big") for number in range(ROWS)]
    block = codec.encode(torch.randn(TOKENS, width))  # the same for all rows: whole logits would not fit
    parts = {f"final/{name}": torch.cat([part] * ROWS) for name, part in block.items()}
    cache.append(shard_bytes(keys, lengths, parts, {*parts}))
    return CacheReader(cache, cache.facts()), codec


def rate(work: Callable[[int], int], repeats: int = 60) -> float:
    """Megabytes a CPU second, of what `work` says it read."""
    work(0)
    start, total = time.process_time(), 0
    for number in range(repeats):
        total += work(number)
    return total / 1e6 / (time.process_time() - start)


def pieces(rows: Any) -> Pieces:
    """Rows of a batch, by the numbers that are their keys."""
    keys = [int(row).to_bytes(KEY_BYTES, "big") for row in rows]
    zeros = np.zeros(len(keys), dtype=np.int64)
    return Pieces(keys, np.arange(len(keys)), zeros, zeros + TOKENS, TOKENS)


def read(width: int, vocabulary: int, folder: Path) -> None:
    """Prints a line for each codec."""
    torch.set_num_threads(1)
    order = np.random.default_rng(0).permutation(ROWS).reshape(-1, BATCH)
    print("| codec | bytes a token | MB/s read and checked | thousand tokens/s decoded |")
    print("| --- | --- | --- | --- |")
    forms: list[tuple[str, dict[str, Any], int]] = [(name, {}, width) for name in codecs.names() if name != "top_k"]
    for name, settings, size in [*forms, ("top_k", {"k": 64}, vocabulary)]:
        reader, codec = made_cache(folder / name, name, settings, size)

        def reading(number: int, reader: CacheReader = reader) -> int:
            found = reader.read(pieces(order[number % len(order)]), BATCH)
            return sum(part.numel() * part.element_size() for part in found.values())

        bits = reader.read(pieces(order[0]), BATCH)
        typed = {part: arrived(each, reader.dtypes[part]).flatten(0, 1) for part, each in bits.items()}
        parts = {part.rpartition("/")[2]: each for part, each in typed.items()}

        def decoding(number: int, codec: Any = codec, parts: Any = parts, axes: bool = False) -> int:
            (codec.decode_axes if axes else codec.decode)(parts)
            return len(next(iter(parts.values())))

        speed, decoded = rate(reading), rate(decoding) * 1e3
        print(f"| {name} | {codec.bytes_per_row(size)} | {speed:,.0f} | {decoded:,.0f} |")
        if codec.axes() is not None:
            decoded = rate(partial(decoding, axes=True)) * 1e3
            print(f"| {name}, axes for the head alone | {codec.bytes_per_row(size)} | {speed:,.0f} | {decoded:,.0f} |")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_steps = commands.add_parser("steps")
    of_steps.add_argument("--teacher_layers", type=int, nargs="+", default=[6, 12])
    of_steps.add_argument("--rounds", type=int, default=7)
    of_read = commands.add_parser("read")
    of_read.add_argument("--width", type=int, default=576)
    of_read.add_argument("--vocabulary", type=int, default=49152)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("hf_distill").setLevel(logging.ERROR)
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.command == "steps":
            steps(arguments.teacher_layers, arguments.rounds, Path(folder))
        else:
            read(arguments.width, arguments.vocabulary, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
