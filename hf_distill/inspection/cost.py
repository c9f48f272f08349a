"""What a step of a stage costs on this machine: a few steps with made-up rows, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, default_data_collator

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError
from hf_distill.inspection.binding import models_of_stages, teacher_of
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.inspection.layout import size as size_of
from hf_distill.inspection.memory import accelerator_memory, forget_peak, peak_bytes
from hf_distill.inspection.rows import made_up_rows, read_twice, with_prompts, with_texts_beside
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.preparation import plan
from hf_distill.runs.stages import Inputs, Job, rehearse_stage
from hf_distill.tasks import task_of
from hf_distill.teachers import Teacher

TIMED = 2
"""Steps that are timed, behind one that is not."""

FIRST = 4
"""Examples of the batch that is tried first."""

PATIENCE = 20.0
"""Seconds for which steps of the whole batch may be measured; a larger one is reckoned from smaller ones."""

FEWER = (
    "Take fewer rows a batch (per_device_train_batch_size, and more gradient_accumulation_steps for as many a step), "
    "shorter ones (max_length), gradient_checkpointing, or smaller models."
)
SMALLER = "Take smaller models, or a machine with more memory."
"""Remedies where steps do not fit, and where models do not."""


@dataclass(frozen=True)
class StepCost:
    """One step of the optimizer: CPU seconds of all threads, seconds, and the most memory that the process holds, in
    bytes, with that of the accelerator if there is one.
    """

    cpu_seconds: float
    seconds: float
    peak_bytes: float
    accelerator_bytes: float = 0.0

    def beyond(self, other: StepCost, batch: int, other_batch: int, wanted: int) -> StepCost:
        """That of a batch of `wanted` examples, in a straight line through this of `batch` and an `other`."""
        ahead = (wanted - batch) / (batch - other_batch)
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return StepCost(*(ours + ahead * max(ours - theirs, 0.0) for ours, theirs in pairs))


@dataclass(frozen=True)
class Expected:
    """The cost of a step of `batch` examples of `length` tokens, measured with `measured` examples at a time."""

    cost: StepCost
    batch: int
    length: int
    measured: int
    accumulated: int = 1
    drops_last: bool = False

    def steps_of(self, rows: int) -> int:
        """Steps of an epoch of so many rows: what is left for a batch, unless it is left out, or for a step, is one
        too."""
        batches = rows // self.batch if self.drops_last else ceil(rows / self.batch)
        return ceil(batches / self.accumulated)


class TooLittleMemory(DistillationError):
    """What was measured asked for more memory than there is."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Looks at the clocks behind every step, and at the memory behind the last one."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []
        self._peaks = (0, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        has_accelerator = torch.accelerator.is_available() and not args.use_cpu
        if has_accelerator:
            torch.accelerator.synchronize()
        self._peaks = (peak_bytes(), torch.accelerator.max_memory_allocated() if has_accelerator else 0)
        if not self._marks:  # the first step has made the optimizer's state
            forget_peak()
            if has_accelerator:
                torch.accelerator.reset_peak_memory_stats()
        self._marks.append((time.process_time(), time.perf_counter()))

    @property
    def cost(self) -> StepCost:
        """Of a step but the first one, the median; the memory of the most hungry one."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        cpu, seconds = (statistics.median(after[i] - before[i] for before, after in pairs) for i in (0, 1))
        return StepCost(cpu, seconds, *map(float, self._peaks))


@dataclass(frozen=True)
class Trial:
    """A stage with models of random weights, whose steps are measured. Without a `tokenizer` both models are taken to
    read every token that the student has a row for.
    """

    job: Job
    student: PreTrainedModel
    teacher: Teacher | None
    length: int
    tokenizer: PreTrainedTokenizerBase | None = None

    def cost(self, batch: int) -> StepCost:
        """That of a step with so many examples."""
        terms = self.job.terms()
        steps = max([TIMED + 1, *(term.objective.smallest_steps for term in terms)])
        settings = {**self.job.settings, "per_device_train_batch_size": batch, "max_steps": steps}
        number = batch * self.accumulated * steps
        student = Anatomy.of(self.student)
        words = student.shape.vocab_size if self.tokenizer is None else len(self.tokenizer)
        rows = made_up_rows(student, task_of(self.student), number, self.length, words)
        if self.teacher is not None and self.teacher.tokenizer is not None:
            rows = read_twice(rows, len(self.teacher.tokenizer))
        if self.job.on_policy is not None:
            rows = with_prompts(rows, self.length - self.job.on_policy.max_new_tokens)
        rows = with_texts_beside(rows, {column for term in terms for column in term.objective.columns})
        job = replace(self.job, settings=settings, tokens_per_batch=None)
        watch = Watch()
        inputs = Inputs(rows, None, self.tokenizer, default_data_collator, None, None)
        on_cpu = bool(self.job.settings.get("use_cpu"))
        with _told_if_it_does_not_fit(
            f"{self.job.title}: steps of {batch} rows of {self.length} tokens", FEWER, on_cpu=on_cpu
        ):
            rehearse_stage(job, self.student, self.teacher, inputs, watch)
        return watch.cost

    @property
    def accumulated(self) -> int:
        """Batches of a step."""
        return int(self.job.settings.get("gradient_accumulation_steps", 1))

    @property
    def drops_last(self) -> bool:
        """Whether a batch that would not be whole is left out."""
        return bool(self.job.settings.get("dataloader_drop_last", False))


def expected_costs(
    recipe: Recipe,
    stages: Collection[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch: int | None = None,
    length: int | None = None,
) -> Iterator[tuple[str, Expected]]:
    """What a step of each of some stages will cost, measured on rows of `length` tokens, by default the recipe's
    longest, in batches of `batch`, by default the recipe's. Tables of embeddings of two sizes need the `tokenizer` of
    both models, which has no more entries than the smaller one.

    Raises: `DistillationError` and its kinds for what a stage refuses, and where the memory does not suffice.
    """
    on_cpu = is_on_cpu(recipe)
    blueprint = Blueprint(recipe, "cpu" if on_cpu else str(_device()))
    jobs = plan(recipe, RunFolder(Path("doctor"))).student  # which is no folder: nothing is read or written there
    with _told_if_it_does_not_fit("the models of the recipe", SMALLER, on_cpu=on_cpu):
        for job, (stage, student, made) in zip(jobs, models_of_stages(blueprint), strict=True):
            if stage.name in stages:
                teacher = teacher_of(stage, blueprint, made)
                tokens = length or _longest(recipe, student, blueprint.teacher)
                trial = Trial(_idle(job), student, teacher, tokens, tokenizer)
                yield stage.name, _expected(trial, batch or _batch_of(job, tokens))


def _expected(trial: Trial, size: int) -> Expected:
    """A batch whose steps would take longer than `PATIENCE` is reckoned from two smaller ones."""
    needed = max(term.objective.smallest_batch for term in trial.job.terms())
    first = min(size, max(FIRST, needed))
    cost = trial.cost(first)
    affordable = int(first * PATIENCE / (TIMED + 1) / cost.seconds)
    second = size if affordable >= size else min(max(affordable, 2 * first), size)
    if second > first:
        larger = trial.cost(second)
        cost = larger if second == size else larger.beyond(cost, second, first, size)
    return Expected(cost, size, trial.length, second, trial.accumulated, trial.drops_last)


@contextmanager
def _told_if_it_does_not_fit(what: str, remedy: str, *, on_cpu: bool) -> Iterator[None]:
    """Raises: `TooLittleMemory` that names `what` asked for more than there is, and the `remedy`."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        accelerator = None if on_cpu else accelerator_memory()
        room = "memory" if accelerator is None else f"the {size_of(accelerator[1])} of the accelerator"
        raise TooLittleMemory(f"{what} do not fit into {room}. {remedy}") from error


def is_on_cpu(recipe: Recipe) -> bool:
    """Whether every stage is trained on the CPU, whatever else there is."""
    return all(stage.arguments.get("use_cpu") for stage in recipe.stages)


def _device() -> torch.device:
    """Where a run would train that is not asked to take the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _longest(recipe: Recipe, *models: PreTrainedModel | None) -> int:
    """Tokens of the longest rows that a recipe makes for its models."""
    tables = [Anatomy.of(model).shape.max_length for model in models if model is not None]
    return min([recipe.max_length, *(table for table in tables if table is not None)])


def _idle(job: Job) -> Job:
    """The job as one that neither evaluates nor saves nor reports."""
    idle = {
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": "none",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
    }
    return replace(job, settings={**job.settings, **idle}, augmented=False)


def _batch_of(job: Job, length: int) -> int:
    if job.tokens_per_batch is not None:
        return max(job.tokens_per_batch // length, 1)
    return int(job.arguments().per_device_train_batch_size)
