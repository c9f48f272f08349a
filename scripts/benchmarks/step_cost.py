"""What one training step costs: hf_distill against a bare loop and against the plain Trainer with the loss written by
hand.

    python scripts/benchmarks/step_cost.py host    # 1 thread; arithmetic vanishes: Python and dispatch are left
    python scripts/benchmarks/step_cost.py task    # 2 threads; 32 x 64 tokens, 6-layer teacher, 3-layer student

All implementations train the same student on the same batches with 0.5 CE + 0.5 T^2 KL at T = 2 and fused AdamW; the
first gradient of each is compared with the loop's. A step lies between two requests for a batch. The implementations
take turns step by step, so that a machine which slows down slows all of them; the order rotates from round to round.
Figures are CPU seconds of the process (all threads); a round's ratio is the median over its turns, and what is printed
is the median over rounds with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
import traceback
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
Runners = dict[str, Runner]


@dataclass(frozen=True)
class Workload:
    """Sizes of a task-distillation step."""

    hidden: int
    batch: int
    length: int
    threads: int
    steps: int

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Teacher of six layers and student of three, random, without dropout."""
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
                num_labels=2,
            )
            made.append(BertForSequenceClassification(config))
        made[0].eval().requires_grad_(False)
        return made[0], made[1]

    def batches(self) -> list[dict[str, Tensor]]:
        """Six batches without padding."""
        made = []
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(1000, 30522, (self.batch, self.length), generator=generator)
            labels = torch.randint(0, 2, (self.batch,), generator=generator)
            made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
        return made


WORKLOADS = {
    "host": Workload(hidden=48, batch=4, length=8, threads=1, steps=60),
    "task": Workload(hidden=384, batch=32, length=64, threads=2, steps=6),
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


class Turns:
    """Lets several runners, each in a thread of its own, work one step at a time, one after the other."""

    def __init__(self, names: list[str]) -> None:
        self.names = list(names)
        self.may_run = {name: threading.Semaphore(0) for name in names}

    def start(self) -> None:
        self.may_run[self.names[0]].release()

    def wait(self, name: str) -> None:
        self.may_run[name].acquire()

    def give(self, name: str) -> None:
        """Hands the turn to the next in the ring."""
        self.may_run[self.names[(self.names.index(name) + 1) % len(self.names)]].release()


@dataclass
class Clock:
    """Marks every request for a batch; in `count` mode, counts the operators between the third and the fourth."""

    name: str = ""
    turns: Turns | None = None
    count: bool = False
    steps: list[float] = field(default_factory=list)
    operators: int = 0
    _requests: int = 0
    _started: float = 0.0
    _mode: OperatorCount | None = None

    def tick(self) -> None:
        self._requests += 1
        if self.turns is not None:
            self.steps.append(time.process_time() - self._started)
            self.turns.give(self.name)
            self.turns.wait(self.name)
            self._started = time.process_time()
        elif self.count and self._requests == 3:
            self._mode = OperatorCount()
            self._mode.__enter__()
        elif self._mode is not None:
            self._mode.__exit__(None, None, None)
            self.operators, self._mode = self._mode.number, None

    @property
    def seconds(self) -> list[float]:
        """Every step but the warm-up: what came before the first request, and the first two steps."""
        return self.steps[3:]


class Batches(torch.utils.data.Dataset):
    """Ready-made batches; asking for one ticks the clock."""

    def __init__(self, batches: list[dict[str, Tensor]], steps: int, clock: Clock) -> None:
        self.batches, self.steps, self.clock = batches, steps, clock

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.clock.tick()
        return dict(self.batches[index % len(self.batches)])


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


RUNNERS: Runners = {
    "loop": loop,
    "hf_kd": by_trainer("hf_kd"),
    "hf_control": by_trainer("hf_control"),
    "hf_distill": by_trainer("hf_distill"),
}


def probe(name: str, workload: Workload, runners: Runners) -> tuple[Clock, list[Tensor]]:
    """The operators of a step, and the first gradient."""
    teacher, student = workload.models()
    clock = Clock(count=True)
    gradient = runners[name](teacher, student, Batches(workload.batches(), 6, clock))
    return clock, gradient


def one_round(order: list[str], workload: Workload, runners: Runners) -> dict[str, list[float]]:
    """CPU seconds of every step of every runner, taken in turns."""
    turns = Turns(order)
    clocks = {name: Clock(name, turns) for name in order}

    def work(name: str) -> None:
        torch.set_num_threads(workload.threads)  # a thread starts with the default
        turns.wait(name)
        try:
            teacher, student = workload.models()
            runners[name](teacher, student, Batches(workload.batches(), workload.steps + 3, clocks[name]))
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # the others would wait for this one's turn for ever
        turns.give(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in order]
    for thread in threads:
        thread.start()
    turns.start()
    for thread in threads:
        thread.join()
    return {name: clock.seconds for name, clock in clocks.items()}


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

    probes = {name: probe(name, workload, RUNNERS) for name in names}
    gradients = compare_gradients({name: gradient for name, (_, gradient) in probes.items()})
    rounds = [one_round(order, workload, RUNNERS) for order in rotated(names, given.rounds)]

    rows = {}
    for name in names:
        against = {
            base: [statistics.median(a / b for a, b in zip(steps[name], steps[base], strict=True)) for steps in rounds]
            for base in ("loop", "hf_kd")
        }
        rows[name] = {
            "milliseconds": 1000 * statistics.median(second for steps in rounds for second in steps[name]),
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
