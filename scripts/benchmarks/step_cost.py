"""What one training step costs: hf_distill against a bare loop and against the plain Trainer with the loss written by
hand.

    python scripts/benchmarks/step_cost.py host            # arithmetic vanishes: Python and dispatch are left (1
    thread) python scripts/benchmarks/step_cost.py task            # 32 x 64 tokens, 6-layer teacher, 3-layer student
    (2 threads)

All implementations train the same student on the same batches with 0.5 CE + 0.5 T^2 KL at T = 2 and fused AdamW; the
first gradient of each is compared with the loop's. A step lies between two requests for a batch. Rounds are
interleaved with rotated order; figures are CPU seconds of the process (all threads), ratios are medians over rounds
with their range, and a bootstrap interval of the median.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_distill import DistillationTrainer, Labels, SoftTargets

TEMPERATURE = 2.0

Runner = Callable[[nn.Module, nn.Module, "Batches"], list[Tensor]]


@dataclass(frozen=True)
class Workload:
    """Sizes of a task-distillation step."""

    hidden: int
    batch: int
    length: int
    threads: int
    steps: int


WORKLOADS = {
    "host": Workload(hidden=48, batch=4, length=8, threads=1, steps=60),
    "task": Workload(hidden=384, batch=32, length=64, threads=2, steps=3),
}


class OperatorCount(TorchDispatchMode):
    """Counts dispatched operators."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        self.number += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Clock:
    """Marks every request for a batch; in `count` mode, counts the operators between the third and the fourth."""

    count: bool = False
    marks: list[float] = field(default_factory=list)
    operators: int = 0
    _mode: OperatorCount | None = None

    def tick(self) -> None:
        self.marks.append(time.process_time())
        if not self.count:
            return
        if len(self.marks) == 3:
            self._mode = OperatorCount()
            self._mode.__enter__()
        elif self._mode is not None:
            self._mode.__exit__(None, None, None)
            self.operators, self._mode = self._mode.number, None

    def seconds(self) -> float:
        """Median step, without the first."""
        return statistics.median(b - a for a, b in zip(self.marks[1:], self.marks[2:], strict=False))


class Batches(torch.utils.data.Dataset):
    """Ready-made batches; asking for one ticks the clock."""

    def __init__(self, batches: list[dict[str, Tensor]], steps: int, clock: Clock) -> None:
        self.batches, self.steps, self.clock = batches, steps, clock

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.clock.tick()
        return dict(self.batches[index % len(self.batches)])


def models(workload: Workload) -> tuple[nn.Module, nn.Module]:
    """Teacher of six layers and student of three, random, without dropout."""
    torch.manual_seed(0)
    made = []
    for layers in (6, 3):
        config = BertConfig(
            hidden_size=workload.hidden,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=4 * workload.hidden,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
            num_labels=2,
        )
        made.append(BertForSequenceClassification(config))
    made[0].eval().requires_grad_(False)
    return made[0], made[1]


def ready_batches(workload: Workload) -> list[dict[str, Tensor]]:
    """Six batches without padding."""
    batches = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1000, 30522, (workload.batch, workload.length), generator=generator)
        labels = torch.randint(0, 2, (workload.batch,), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return batches


def textbook(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """0.5 CE + 0.5 T^2 KL, as it is usually written."""
    kl = functional.kl_div(
        functional.log_softmax(student_logits / TEMPERATURE, -1),
        functional.softmax(teacher_logits / TEMPERATURE, -1),
        reduction="batchmean",
    )
    return 0.5 * functional.cross_entropy(student_logits, labels) + 0.5 * TEMPERATURE**2 * kl


def first_gradient(optimizer: torch.optim.Optimizer, student: nn.Module) -> list[Tensor]:
    """A list that the optimizer's first step fills with the student's gradient."""
    seen: list[Tensor] = []

    def remember(*_: object) -> None:
        if not seen:
            seen.extend(p.grad.flatten().double().clone() for p in student.parameters() if p.grad is not None)

    optimizer.register_step_pre_hook(remember)
    return seen


def adamw(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.01, fused=True)


def loop(teacher: nn.Module, student: nn.Module, data: Batches) -> list[Tensor]:
    """A hand-written loop over the stock models."""
    student.train()
    optimizer = adamw(student)
    seen = first_gradient(optimizer, student)
    for index in range(len(data)):
        batch = data[index]
        labels = batch.pop("labels")
        with torch.no_grad():
            teacher_logits = teacher(**batch).logits
        textbook(student(**batch).logits, teacher_logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return seen


class HandWritten(Trainer):
    """What most people do: the loss in `compute_loss`."""

    teacher: nn.Module

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        with torch.no_grad():
            teacher_logits = self.teacher(**inputs).logits
        outputs = model(**inputs)
        loss = textbook(outputs.logits, teacher_logits, labels)
        return (loss, outputs) if return_outputs else loss


def arguments(folder: str, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=1e-4,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def by_trainer(kind: str) -> Runner:
    """A runner over the plain Trainer without a teacher, with a hand-written loss, or over hf_distill."""

    def run(teacher: nn.Module, student: nn.Module, data: Batches) -> list[Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            given = {
                "model": student,
                "args": arguments(folder, len(data)),
                "train_dataset": data,
                "data_collator": lambda items: items[0],
                "optimizers": (adamw(student), None),
            }
            if kind == "hf_distill":
                terms = 0.5 * SoftTargets(temperature=TEMPERATURE) + 0.5 * Labels()
                trainer: Trainer = DistillationTrainer(teacher=teacher, objectives=terms, **given)
            elif kind == "hf_kd":
                trainer = HandWritten(**given)
                trainer.teacher = teacher
            else:
                trainer = Trainer(**given)
            seen = first_gradient(given["optimizers"][0], student)
            trainer.train()
        return seen

    return run


RUNNERS = {
    "loop": loop,
    "hf_kd": by_trainer("hf_kd"),
    "hf_control": by_trainer("hf_control"),
    "hf_distill": by_trainer("hf_distill"),
}


def one_run(name: str, workload: Workload, steps: int, *, count: bool = False) -> tuple[Clock, list[Tensor]]:
    teacher, student = models(workload)
    clock = Clock(count=count)
    gradient = RUNNERS[name](teacher, copy.deepcopy(student), Batches(ready_batches(workload), steps, clock))
    return clock, gradient


def rotated(names: list[str], rounds: int) -> Iterator[list[str]]:
    for number in range(rounds):
        shift = number % len(names)
        yield names[shift:] + names[:shift]


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(values, (10_000, len(values))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def compare_gradients(gradients: dict[str, list[Tensor]]) -> dict[str, tuple[float, float]]:
    """Cosine with the loop's first gradient, and the ratio of norms."""
    reference = torch.cat(gradients["loop"])
    found = {}
    for name, parts in gradients.items():
        vector = torch.cat(parts)
        cosine = torch.dot(vector, reference) / vector.norm() / reference.norm()
        found[name] = (float(cosine), float(vector.norm() / reference.norm()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", help="a JSON file for the figures")
    given = parser.parse_args()
    workload = WORKLOADS[given.workload]
    torch.set_num_threads(workload.threads)
    transformers.logging.set_verbosity_error()
    names = list(RUNNERS)

    probes = {name: one_run(name, workload, 6, count=True) for name in names}
    gradients = compare_gradients({name: gradient for name, (_, gradient) in probes.items()})
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for order in rotated(names, given.rounds):
        for name in order:
            seconds[name].append(one_run(name, workload, workload.steps + 3)[0].seconds())

    rows = {}
    for name in names:
        against = {
            base: [mine / theirs for mine, theirs in zip(seconds[name], seconds[base], strict=True)]
            for base in ("loop", "hf_kd")
        }
        rows[name] = {
            "milliseconds": 1000 * statistics.median(seconds[name]),
            "operators": probes[name][0].operators,
            "cosine": gradients[name][0],
            "norm_ratio": gradients[name][1],
            **{
                f"against_{base}": {
                    "median": statistics.median(ratios),
                    "interval": interval(ratios),
                    "range": (min(ratios), max(ratios)),
                }
                for base, ratios in against.items()
            },
        }
    header = f"{'':12} {'CPU ms':>8} {'operators':>9} {'/ loop':>24} {'/ hf_kd':>24}  gradient (cosine, norm)"
    print(f"{given.workload}: {given.rounds} rounds, {workload.threads} thread(s), torch {torch.__version__}")
    print(header)
    for name, row in rows.items():
        ratios = [row["against_loop"], row["against_hf_kd"]]
        shown = " ".join(f"{r['median']:8.3f} [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}]" for r in ratios)
        print(
            f"{name:12} {row['milliseconds']:8.2f} {row['operators']:9d} {shown}  {row['cosine']:.8f} "
            f"{row['norm_ratio']:.6f}"
        )
    if given.output:
        with open(given.output, "w", encoding="utf-8") as file:
            json.dump({"workload": given.workload, "rounds": given.rounds, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
