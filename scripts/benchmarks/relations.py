"""What a step of MiniLM v2 costs: hf_distill against a bare loop and against the plain Trainer, both with eager
attention's own projections and the relation loss as it is usually written.

    python scripts/benchmarks/relations.py            # 2 threads; 32 x 128 tokens, BERT of 6 and 3 layers 384 wide
    python scripts/benchmarks/relations.py --smoke    # the same at toy sizes: does it run?

Q-Q, K-K and V-V of the last layers, 12 relation heads, the mean over heads and real tokens of each text, then over
texts; every fourth text is short. Turns, ratios and intervals are those of `step_cost.py`; the first gradient of each
is compared with the loop's. Memory is what a step adds to the resident set at its peak, each implementation in a
process of its own, after two warm steps (Linux only).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from step_cost import (
    Batches,
    Clock,
    Workload,
    adamw,
    arguments,
    compare_gradients,
    first_gradient,
    interval,
    one_round,
    probe,
    rotated,
)
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, Trainer

from hf_distill import DistillationTrainer, MiniLMv2

HEADS = 12


@dataclass(frozen=True)
class Relations(Workload):
    """Sizes of a step over relations."""

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Teacher of six layers and student of three, random, without dropout, pooler and head."""
        torch.manual_seed(0)
        made = []
        for layers in (6, 3):
            config = BertConfig(
                hidden_size=self.hidden,
                num_hidden_layers=layers,
                num_attention_heads=12,
                intermediate_size=4 * self.hidden,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=0.05,
            )
            made.append(BertModel(config, add_pooling_layer=False))
        made[0].eval().requires_grad_(False)
        return made[0], made[1]

    def batches(self) -> list[dict[str, Tensor]]:
        """Six batches in which every fourth text is short."""
        made = []
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(1000, 30522, (self.batch, self.length), generator=generator)
            lengths = torch.full((self.batch,), self.length)
            lengths[::4] = torch.randint(self.length // 4, self.length, (len(lengths[::4]),), generator=generator)
            made.append({"input_ids": ids, "attention_mask": (torch.arange(self.length) < lengths[:, None]).long()})
        return made


WORKLOADS = {
    "relations": Relations(hidden=384, batch=32, length=128, threads=2, steps=4),
    "smoke": Relations(hidden=48, batch=4, length=8, threads=2, steps=3),
}


class Projections:
    """Queries, keys and values of a model's last layer, by hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, Tensor] = {}
        attention = model.encoder.layer[-1].attention.self
        for name in ("query", "key", "value"):
            getattr(attention, name).register_forward_hook(self._keep(name))

    def _keep(self, name: str):
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            self.seen[name] = output

        return keep


def textbook(student: Projections, teacher: Projections, mask: Tensor) -> Tensor:
    """The relation loss as it is usually written, over whole batches and through autograd."""
    hidden = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min

    def scores(projection: Tensor) -> Tensor:
        parts = projection.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return parts @ parts.transpose(2, 3) / math.sqrt(parts.shape[-1]) + hidden

    total = torch.zeros(())
    for name in ("query", "key", "value"):
        log_q = functional.log_softmax(scores(student.seen[name]), -1)
        p = functional.softmax(scores(teacher.seen[name]), -1)
        rows = functional.kl_div(log_q, p, reduction="none").sum(-1).mean(1) * mask
        total = total + (rows.sum(1) / mask.sum(1)).mean()
    return total


def loop(teacher: nn.Module, student: nn.Module, data: Batches) -> list[Tensor]:
    """A hand-written loop over the stock models."""
    student.train()
    shown, targets = Projections(student), Projections(teacher)
    optimizer = adamw(student)
    seen = first_gradient(optimizer, student)
    for index in range(len(data)):
        batch = data[index]
        with torch.no_grad():
            teacher(**batch)
        student(**batch)
        textbook(shown, targets, batch["attention_mask"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return seen


class HandWritten(Trainer):
    """The loss in `compute_loss`."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():
            self.teacher(**inputs)
        outputs = model(**inputs)
        loss = textbook(*self.projections, inputs["attention_mask"])
        return (loss, outputs) if return_outputs else loss


def by_trainer(kind: str):
    """A runner over the plain Trainer with a hand-written loss, or over hf_distill."""

    def run(teacher: nn.Module, student: nn.Module, data: Batches) -> list[Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            optimizer = adamw(student)
            given = {
                "model": student,
                "args": arguments(folder, len(data)),
                "train_dataset": data,
                "data_collator": lambda items: items[0],
                "optimizers": (optimizer, None),
            }
            if kind == "hf_distill":
                trainer = DistillationTrainer(teacher=teacher, objectives=MiniLMv2(relation_heads=HEADS), **given)
            else:
                trainer = HandWritten(**given)
                trainer.teacher, trainer.projections = teacher, (Projections(student), Projections(teacher))
            seen = first_gradient(optimizer, student)
            trainer.train()
        return seen

    return run


RUNNERS = {"loop": loop, "hf_kd": by_trainer("hf_kd"), "hf_distill": by_trainer("hf_distill")}


class MemoryClock(Clock):
    """Reads what the step after two warm ones adds to the resident set at its peak."""

    def tick(self) -> None:
        self._requests += 1
        if self._requests == 4:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before = resident("VmRSS")
        elif self._requests == 5:
            self.extra = resident("VmHWM") - self._before


def resident(field: str) -> float:
    """Megabytes of a field of the process's status."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024


def extra_memory(name: str, smoke: bool) -> float:
    """Of one runner in a new process."""
    command = [sys.executable, __file__, "--memory-of", name, *(["--smoke"] if smoke else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="toy sizes, one round")
    parser.add_argument("--memory-of", choices=sorted(RUNNERS), help=argparse.SUPPRESS)
    parser.add_argument("--output", help="a JSON file for the figures")
    given = parser.parse_args()
    workload = WORKLOADS["smoke" if given.smoke else "relations"]
    torch.set_num_threads(workload.threads)
    transformers.logging.set_verbosity_error()
    if given.memory_of:
        clock = MemoryClock()
        RUNNERS[given.memory_of](*workload.models(), Batches(workload.batches(), 6, clock))
        print(clock.extra)
        return

    names = list(RUNNERS)
    memory = {name: extra_memory(name, given.smoke) for name in names}
    probes = {name: probe(name, workload, RUNNERS) for name in names}
    gradients = compare_gradients({name: gradient for name, (_, gradient) in probes.items()})
    orders = rotated(names, 1 if given.smoke else given.rounds)
    rounds = [one_round(order, workload, RUNNERS) for order in orders]

    rows = {}
    for name in names:
        ratios = [
            statistics.median(a / b for a, b in zip(steps[name], steps["loop"], strict=True)) for steps in rounds
        ]
        rows[name] = {
            "milliseconds": 1000 * statistics.median(second for steps in rounds for second in steps[name]),
            "operators": probes[name][0].operators,
            "extra_megabytes": memory[name],
            "against_loop": {"median": statistics.median(ratios), "interval": interval(ratios)},
            "cosine": gradients[name][0],
            "norm_ratio": gradients[name][1],
        }
    print(f"{len(rounds)} round(s), {workload.threads} threads, torch {torch.__version__}")
    print(f"{'':12} {'CPU ms':>8} {'operators':>9} {'extra MB':>9} {'/ loop':>24}  gradient (cosine, norm)")
    for name, row in rows.items():
        ratio = row["against_loop"]
        print(
            f"{name:12} {row['milliseconds']:8.2f} {row['operators']:9d} {row['extra_megabytes']:9.1f} "
            f"{ratio['median']:8.3f} [{ratio['interval'][0]:.3f}, {ratio['interval'][1]:.3f}]  {row['cosine']:.8f} "
            f"{row['norm_ratio']:.6f}"
        )
    if given.output:
        Path(given.output).write_text(json.dumps({"rounds": len(rounds), "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
