"""One stage: one trainer, from the student of the stage before to the finished one on disk."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_distill.activations import Signal
from hf_distill.checkpoints import OBJECTIVES, checkpoints_in, last_whole, step_of
from hf_distill.distillation import Distillation
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.hub.packed import write_packed
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Terms
from hf_distill.ranks import is_main_process, wait_for_everyone
from hf_distill.recipe import Lora, QuantizePoints, QuantizeUniform, Student, TrainGroup
from hf_distill.recipe.rules.kept import REFERENCE
from hf_distill.runs import tracking
from hf_distill.runs.adapters import adapted, merged, save_plain
from hf_distill.runs.arguments import evaluation_arguments, training_arguments
from hf_distill.runs.folder import MARK, TRAINER_STATE, read_json, write_json
from hf_distill.runs.freezing import at_rest, check_reached, freeze
from hf_distill.runs.progress import TOKENS_PER_SECOND, CpuClock, Pace, PaceBar
from hf_distill.runs.workload import Collator, Rows
from hf_distill.students.quantized import (
    LEARNED,
    go_on_from,
    has_grids,
    has_points,
    plain_name,
    quantize_points,
    quantize_uniform,
    train_points,
)
from hf_distill.teachers import Teacher
from hf_distill.teachers.cache.codecs import Codec
from hf_distill.trainer import DistillationTrainer
from hf_distill.training.policy import OnPolicy
from hf_distill.training.preemption import stop_on_sigterm
from hf_distill.vocabulary import may_run_in_part

logger = logging.getLogger(__name__)

Learned = dict[str, Tensor]
"""What objectives learned, `<term>.<parameter>`."""

Metrics = Callable[[EvalPrediction], dict[str, float]]


@dataclass(frozen=True)
class Job:
    """One training run: its name in messages, its folder, its terms, what trains, whether on augmented rows, the
    budget of a batch if it has one, and where its student and its teacher come from.
    """

    title: str
    folder: Path
    settings: Mapping[str, Any]
    seed: int
    terms: Callable[[], Terms]
    groups: Sequence[TrainGroup] = ()
    augmented: bool = False
    tokens_per_batch: int | None = None
    starts: Student | None = None
    """What the student is that it starts with; None to go on with that of the job before."""
    learns_from: Job | None = None
    """The earlier job whose student is the teacher; None for the recipe's teacher."""
    grid: QuantizeUniform | QuantizePoints | None = None
    """What the weights of the student lie on."""
    targets: str = REFERENCE
    """What it learns: the targets of the data, or which of those that the teacher writes."""
    lora: Lora | None = None
    """The adapters that train in place of the student's weights."""
    on_policy: OnPolicy | None = None
    """How the student writes texts that it trains on; None where it does not."""
    resume_despite: frozenset[str] = frozenset()
    """What may differ between its last checkpoint and the run that goes on from it."""

    def arguments(self) -> TrainingArguments:
        """New training arguments; they also set up the processes, so each trainer takes its own."""
        settings = {**self.settings, **tracking.names(self.settings, self.folder)}
        return training_arguments(settings, self.folder, self.seed, self.title)

    def evaluation_arguments(self) -> TrainingArguments:
        """The same for a trainer that only predicts."""
        return evaluation_arguments(self.settings, self.folder, self.seed, self.title)

    @property
    def mark(self) -> dict[str, Any] | None:
        """Steps, epochs and metrics of the finished training; None while it is not finished."""
        return read_json(self.folder / MARK)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The trainer's logs."""
        state = read_json(self.folder / TRAINER_STATE)
        return [] if state is None else list(state.get("log_history", []))


@dataclass(frozen=True)
class Inputs:
    """What a trainer reads: token ids in the model's label order, and how its answers are scored."""

    train: Rows
    validation: Rows
    processing: Any
    """What is saved beside the student: the tokenizer, or a processor with more."""
    collator: Collator
    metrics: Metrics | None
    """None where training is judged by its objectives; they are evaluated once more when it is finished."""
    reduce: Callable[[Any, Any], Tensor] | None
    in_words: bool = False
    """Whether it is evaluated by the words that it prefers, as `Workload.in_words` says."""


class StageTrainer(DistillationTrainer):
    """A `DistillationTrainer` in which parameters of the student may have their share of the learning rate, by
    name, which logs real tokens a second over all processes, and which stops with a checkpoint at SIGTERM. Without a
    teacher, too, it makes the logits of a large vocabulary in chunks.
    """

    scales: Mapping[str, float] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = Pace()
        self.cpu = CpuClock()
        self.add_callback(self.cpu)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(PaceBar)
        stop_on_sigterm(self)

    def _may_run_in_part(self, pair: Pair) -> bool:
        return may_run_in_part(pair, taught=self.teacher is not None)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of one optimizer step, and their counts."""
        samples, counts = super().get_batch_samples(*args, **kwargs)
        for batch in samples:
            self._pace.add(batch)
        return samples, counts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `tokens_per_second` to a training log."""
        if self.is_in_train and "loss" in logs:
            tokens, seconds = self._pace.read()
            if tokens is not None:
                logs[TOKENS_PER_SECOND] = float(self._sum_over_ranks(tokens)) / seconds
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer, its groups divided by learning rate."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        named = (self.model if model is None else model).named_parameters()
        scales = {id(each): self.scales.get(plain_name(name.removeprefix("student.")), 1.0) for name, each in named}
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            by_scale: dict[float, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_scale.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
            groups += [{**group, "params": params, "lr": group["lr"] * scale} for scale, params in by_scale.items()]
        optimizer.param_groups = groups
        return optimizer


def train_stage(
    job: Job,
    model: PreTrainedModel,
    teacher: Teacher | None,
    inputs: Inputs,
    learned: Learned,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Trains `model` as the job says, from the last whole checkpoint if there is one, and leaves it in the job's
    folder.

    `learned` is what terms of earlier stages learned; a term of the same name goes on with it. So do the floats and
    the points beneath grids, where the job before had them.

    Raises: `IncompatiblePair` if a term of that name has other parameters; `BrokenCheckpoint` for a checkpoint of
    another run; `DistillationError` if training stopped early.
    """
    checkpoint = last_whole(job.folder)
    wait_for_everyone()  # every process has looked before one of them writes
    if is_main_process():
        _remove_torn(job.folder, checkpoint)
    trainer = _trainer(job, model, teacher, inputs, learned)
    for callback in callbacks:
        trainer.add_callback(callback)
    hand_on(learned, trainer.distillation.objectives, job.title)
    if teacher is not None:
        teacher.go_on_from(learned)
    if checkpoint is not None:
        logger.warning("%s: going on from %s", job.title, checkpoint)
    with tracking.followed(trainer, job.folder):
        output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        _finish(job, trainer, {**output.metrics, **trainer.cpu.read()})
    trainer.distillation.close()


def cache_teacher(
    job: Job,
    model: PreTrainedModel,
    teacher: Teacher,
    inputs: Inputs,
    folder: Path,
    *,
    codec: Codec | None,
    signals: Iterable[Signal],
    max_length: int,
) -> None:
    """Writes what `signals` and the job's terms read of the teacher for the job's rows into `folder`, where it is not
    there yet. `model` is the student before this job.

    Raises: `CacheMismatch` for a cache of something else, and for another writer.
    """
    with TemporaryDirectory() as nowhere:
        # Without adapters, which the student gets once, when it trains.
        trainer = _trainer(replace(job, folder=Path(nowhere), lora=None), model, teacher, inputs, {})
        trainer.cache_teacher(folder, codec=codec, signals=signals, max_length=max_length)
    trainer.distillation.close()


def rehearse_stage(
    job: Job, model: PreTrainedModel, teacher: Teacher | None, inputs: Inputs, watch: TrainerCallback
) -> None:
    """Takes the steps that the job's arguments ask for, shown to `watch`, and leaves nothing on the disk. `model` is
    changed by them.

    Raises: as `check_stage`.
    """
    with TemporaryDirectory() as folder:
        trainer = _trainer(replace(job, folder=Path(folder)), model, teacher, inputs, {})
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.rehearses = True
        trainer.train()
    trainer.distillation.close()
    if job.lora is not None:
        trainer.model.unload()  # so that the next rehearsal puts its adapters on the plain model


def _trainer(
    job: Job, model: PreTrainedModel, teacher: Teacher | None, inputs: Inputs, learned: Learned
) -> StageTrainer:
    scales = freeze(model, job.groups, job.title)
    _put_on_grid(job, model)
    student = model if job.lora is None else adapted(model, job.lora, job.title)
    go_on_from(model, learned)  # before a teacher meets the student, and copies what lies beneath its grids
    trainer = StageTrainer(
        model=student,
        teacher=teacher,
        objectives=job.terms(),
        args=job.arguments(),
        train_dataset=inputs.train,
        eval_dataset=inputs.validation,
        processing_class=inputs.processing,
        data_collator=inputs.collator,
        compute_metrics=inputs.metrics,
        preprocess_logits_for_metrics=inputs.reduce,
        tokens_per_batch=job.tokens_per_batch,
        on_policy=job.on_policy,
        resume_despite=job.resume_despite,
    )
    if inputs.in_words:
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        trainer.distillation.answer_in_words(in_part=not sharded)
    trainer.scales = scales
    trainer.stage = job.folder.name
    trainer.distillation.rest(at_rest(model, job.groups))
    if job.lora is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise DistillationError(
            f"{job.title}: lora: the adapters are merged when the stage is over, and FSDP or DeepSpeed may hold no "
            "weight whole; train without them."
        )
    return trainer


def _put_on_grid(job: Job, model: PreTrainedModel) -> None:
    """Quantizes the student of a job that says so; one that wrote a cache of its teacher is quantized already."""
    settings = {} if job.grid is None else job.grid.model_dump()
    if isinstance(job.grid, QuantizeUniform) and not has_grids(model):
        quantize_uniform(model, **settings)
    elif isinstance(job.grid, QuantizePoints) and not has_grids(model):
        quantize_points(model, **settings)
    if has_points(model):
        train_points(model)


def _remove_torn(folder: Path, whole: Path | None) -> None:
    """Removes checkpoints that are newer than the last whole one: a rotation would count them, and keep them for
    it.
    """
    last = -1 if whole is None else step_of(whole)
    for path in checkpoints_in(folder):
        if step_of(path) > last:
            shutil.rmtree(path)


def _finish(job: Job, trainer: StageTrainer, metrics: Mapping[str, float]) -> None:
    """Saves the model, and marks the stage finished when everything else is on disk."""
    state = trainer.state
    if state.global_step < state.max_steps:
        raise DistillationError(
            f"{job.title}: stopped at step {state.global_step} of {state.max_steps}; run the same command again to go "
            "on from its last checkpoint."
        )
    if trainer.compute_metrics is None:
        metrics = {**metrics, **trainer.evaluate()}
    trainer.save_model(str(job.folder))
    if job.lora is not None:
        plain = merged(trainer.model)
        if is_main_process():
            save_plain(plain, job.folder)
    trainer.save_state()
    if has_grids(trainer.model) and is_main_process():
        write_packed(trainer.model, job.folder)
    wait_for_everyone()
    if is_main_process():
        write_json(
            job.folder / MARK, {"steps": state.global_step, "epochs": state.epoch or 0.0, "metrics": dict(metrics)}
        )
    wait_for_everyone()


def learned_after(job: Job, before: Learned) -> Learned:
    """What terms had learned when a stage was finished, and what lay beneath the grids of its student, if any."""
    path = job.folder / OBJECTIVES
    kept = {name: tensor for name, tensor in before.items() if not name.startswith(LEARNED)}
    return kept | (load_file(path) if path.is_file() else {})


def hand_on(learned: Mapping[str, Tensor], objectives: nn.ModuleDict, title: str) -> None:
    """Gives each term what a term of its name learned in an earlier stage.

    Raises: `IncompatiblePair` if it learned other things, or in other shapes.
    """
    for name, objective in objectives.items():
        prefix = f"{name}."
        before = {key.removeprefix(prefix): tensor for key, tensor in learned.items() if key.startswith(prefix)}
        now = objective.state_dict()
        if not before:
            continue
        taken: tuple[str, ...] = objective.takes  # type: ignore[assignment]
        if before.keys() != now.keys() and taken:
            before, now = (_beginning(state, taken) for state in (before, now))
        shapes = [{key: tuple(tensor.shape) for key, tensor in state.items()} for state in (before, now)]
        if shapes[0] != shapes[1]:
            raise IncompatiblePair(
                f"{title}: the term {name!r} learned {shapes[0]} in an earlier stage, and here it learns {shapes[1]}; "
                "give it another name, so that it starts anew."
            )
        objective.load_state_dict({**objective.state_dict(), **before})


def _beginning(state: Mapping[str, Tensor], names: tuple[str, ...]) -> Learned:
    return {name: tensor for name, tensor in state.items() if name.startswith(names)}


def check_stage(job: Job, model: PreTrainedModel, teacher: Teacher | None, inputs: Inputs) -> Distillation:
    """Makes the stage's trainer without training, for whatever it would refuse; returns its terms as they are bound.

    Nothing is left in the job's folder, nor on the models; the teacher is not used again.

    Raises: `DistillationError` and its kinds: a set-up, patterns, layers, labels and vocabularies that do not fit, and
    parameters that should train and get no gradient.
    """
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    changes = job.grid is not None or job.lora is not None  # grids and adapters are not taken off again
    subject = copy.deepcopy(model) if changes else model
    with TemporaryDirectory() as folder:
        trainer = _trainer(replace(job, folder=Path(folder)), subject, teacher, inputs, {})
    check_reached(trainer.distillation, trainer.model, job.groups, job.title)
    trainer.distillation.close()
    if teacher is not None:
        teacher.bind(frozenset())  # takes its hooks off
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains[name])
    return trainer.distillation
