"""One run of `scaling.py measure`: the seconds of its steps and of their parts, as a line of JSON."""

from __future__ import annotations

import json
import tempfile
import time
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import distributed
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments

from hf_distill import DistillationTrainer, Labels, SoftTargets

ROWS, LENGTH, VOCABULARY, WARM = 8, 32, 1000, 3
PROBE = 1_024
"""Numbers in the exchange from which latency is taken."""


def run(steps: int) -> None:
    """Trains, and prints the medians; only the first process does."""
    trainer, clock = _trainer(steps), _Clock()
    trainer.add_callback(clock)
    trainer.train()
    told: dict[str, Any] = {
        "step": median(clock.steps[WARM:]),
        "cpu": median(clock.cpu[WARM:]),
        "rows": ROWS,
        "parameters": sum(each.numel() for each in trainer.model.parameters()),
        **_parts(trainer),
        **_exchanges(trainer),
    }
    if trainer.is_world_process_zero():
        print(json.dumps(told), flush=True)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _model(layers: int, width: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=LENGTH,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def _trainer(steps: int) -> DistillationTrainer:
    torch.manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (ROWS * 16, LENGTH))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": int(row[0]) % 2} for row in ids]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="scaling_"),
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return DistillationTrainer(
        model=_model(2, 128),
        teacher=_model(4, 192),
        objectives=SoftTargets() + Labels(),
        args=arguments,
        train_dataset=rows,
    )


class _Clock(TrainerCallback):
    """Seconds from one step's beginning to the next one's, and those of them in which a CPU worked for this process,
    which other work on the machine changes little."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.cpu: list[float] = []
        self._last: tuple[float, float] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now, worked = time.perf_counter(), time.process_time()
        if self._last is not None:
            self.steps.append(now - self._last[0])
            self.cpu.append(worked - self._last[1])
        self._last = now, worked


def _parts(trainer: DistillationTrainer) -> dict[str, float]:
    """The teacher's forward pass on one batch, timed alone, and what is left of a step of one process."""
    batch = {name: each[:ROWS] for name, each in next(iter(trainer.get_train_dataloader())).items()}
    assert trainer.teacher is not None
    teacher = _timed(lambda: trainer.teacher.activations(batch))  # type: ignore[union-attr]
    step = median(next(each for each in trainer.callback_handler.callbacks if isinstance(each, _Clock)).steps[WARM:])
    return {"teacher_forward": teacher, "student_step": step - teacher}


def _exchanges(trainer: DistillationTrainer) -> dict[str, float]:
    """Latency of a small all-reduce, and the rate of the gradients': of what a pass forward and backward takes longer
    when it ends in their exchange. A bare all-reduce is faster, as it has the cores to itself."""
    if not distributed.is_initialized():
        return {}
    student = trainer.model_wrapped
    batch = {name: each[:ROWS] for name, each in next(iter(trainer.get_train_dataloader())).items()}

    def both_ways() -> None:
        student(**batch).loss.backward()

    def apart() -> None:
        with student.no_sync():
            both_ways()

    times = [(_timed(both_ways), _timed(apart)) for _ in range(5)]
    p = distributed.get_world_size()
    volume = 2 * (p - 1) / p * sum(4 * each.numel() for each in trainer.model.parameters())
    latency = _timed(partial(distributed.all_reduce, torch.zeros(PROBE))) / (2 * (p - 1))
    return {"network": volume / max(median(together - alone for together, alone in times), 1e-6), "latency": latency}


def _timed(function: Any, times: int = 15) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return median(taken[WARM:])
