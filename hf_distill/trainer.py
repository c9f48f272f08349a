"""The Trainer that distils. Its parts, each with what it overrides, are in `training/`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hf_distill import checkpoints, checks
from hf_distill.activations import Signal
from hf_distill.distillation import Counts, Losses
from hf_distill.errors import DistillationError
from hf_distill.objectives.base import Objective
from hf_distill.objectives.feature.embedding_mse import EmbeddingMSE
from hf_distill.objectives.response.labels import Labels
from hf_distill.objectives.response.loss_function import LossFunction
from hf_distill.objectives.response.soft_targets import SoftTargets
from hf_distill.objectives.terms import Term, Terms
from hf_distill.parameter_groups import regroup
from hf_distill.sentences import is_sentence_model
from hf_distill.students.loss_rises import loss_rises
from hf_distill.teachers import Teacher
from hf_distill.teachers.cache.codecs import Codec
from hf_distill.teachers.frozen import OWN
from hf_distill.training.callbacks import EpochOrder, EpochSaves, Following, StepWeights
from hf_distill.training.checkpointing import Checkpointing
from hf_distill.training.compilation import told_of_compiler
from hf_distill.training.generating import Generating
from hf_distill.training.loaders import Loaders
from hf_distill.training.on_policy import OnPolicyTrainer
from hf_distill.training.policy import OnPolicy
from hf_distill.training.preemption import release_sigterm, stop_on_sigterm
from hf_distill.training.publishing import Publishing
from hf_distill.training.repeated import HOLLOW, emptied, is_hollow
from hf_distill.training.teacher_cache import cache_teacher as write_teacher
from hf_distill.training.teacher_cache import compared_rows
from hf_distill.training.vectors import sentence_vectors
from hf_distill.training.watching import Watching
from hf_distill.training.workers import told_of_workers

SMALLEST_PART = 1e-6
"""Less than what any row is of a unit."""

TermsLike = Objective | Term | Terms | Iterable[Objective | Term]


class DistillationTrainer(Loaders, Generating, OnPolicyTrainer, Watching, Checkpointing, Publishing):
    """A `transformers.Trainer` whose loss is a sum of objectives between the student and a teacher.

    `model` is the student. `teacher` is a loaded model, a path or Hub id, or a `Teacher`. `objectives` are weighted
    terms, `5.0 * SoftTargets(temperature=2.0) + 2.0 * Labels()`; left out, they are half soft targets at temperature 2
    and half labels, or the labels alone without a teacher; a `compute_loss_func` then takes the place of the labels,
    also in `eval_loss` (beside others it is a term as well, an `objectives.LossFunction`). `label_map` pairs student
    label names with teacher label names where they differ. `tokens_per_batch` is the most cells, padding included, of
    a batch of one process: as many rows of similar length as fit, in place of `per_device_train_batch_size`
    (`TokenBudgetSampler`). Cells are counted for padding to the longest row; what the collator pads further
    (`pad_to_multiple_of`) comes on top. `on_policy`, an `OnPolicy`, has the student write a share of the texts that it
    trains on. `resume_despite` names what may differ between a checkpoint and the run that
    goes on from it (`data`, `teacher`, `base`, `objectives`, `arguments`, `world_size`, `stage`); else it is refused.
    With `predict_with_generate` of `Seq2SeqTrainingArguments` the student generates in evaluation and prediction, as
    with transformers' `Seq2SeqTrainer`. With `enable_jit_checkpoint` of the arguments SIGTERM has a checkpoint written
    at the end of the step, and the process exits with 75 (`Preempted`). Everything else is the Trainer's:
    `docs/drop-in.md` has the table.

    Every term's sum is divided by what it counts over the whole accumulation window and all processes, so results do
    not depend on padding, on how a batch is cut into micro-batches, or on the number of processes. `eval_loss` is the
    task's own loss over all labels. Logs hold `objective/<term>` and `weighted/<term>`, `auxiliary/<term>` of
    two-sided terms, `weight/<term>` of weights that follow a schedule or are learned, and `<term>/<what>` of what else
    a term has to tell. A NaN or infinite loss or gradient moves no weight and stops the run with the term's name
    (`args.logging_nan_inf_filter` is off while it trains).

    `trainer.model` stays the student: checkpoints load with plain `from_pretrained`, and what objectives learn lies
    beside it in `distillation.safetensors`.

    Where the examples do not divide by the processes, accelerate repeats early ones to fill the last batches of an
    epoch; they weigh nothing (`training.repeated`), except beside objectives that exchange the examples of all
    processes. `dataloader_drop_last=True` leaves those batches out.

    Raises: `DistillationError` and its kinds at construction for whatever does not fit.
    """

    loss_is_scaled_for_ga = True
    rehearses = False
    """Whether it trains on made-up rows, which say nothing of the data."""
    _for_subclass = False
    """Whether a subclass makes the optimizer, and may ask for the one that there would be."""

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: Any = None,
        *trainer_args: Any,
        teacher: PreTrainedModel | str | os.PathLike[str] | Teacher | None = None,
        objectives: TermsLike | None = None,
        label_map: Mapping[str, str] | None = None,
        tokens_per_batch: int | None = None,
        on_policy: OnPolicy | None = None,
        resume_despite: Collection[str] = (),
        **trainer_kwargs: Any,
    ) -> None:
        self._frozen: list[nn.Parameter] = []
        self._num_parameters = 0
        self.tokens_per_batch = tokens_per_batch
        self.on_policy = on_policy
        self.resume_despite = checkpoints.known_differences(resume_despite)
        super().__init__(model, args, *trainer_args, **trainer_kwargs)
        checks.before_training(self)
        checks.fits_token_budget(self)
        checks.fits_grids(self)
        self._take_generation()
        self.label_map = label_map
        self.teacher = self._as_teacher(teacher)
        self.terms = self._as_terms(objectives)
        self.add_callback(EpochOrder(self))
        self.add_callback(EpochSaves())
        self.add_callback(StepWeights(self))
        self.add_callback(Following(self))
        if self.args.enable_jit_checkpoint:
            stop_on_sigterm(self)
        self._bind()
        self._begin_on_policy()

    def _as_terms(self, objectives: TermsLike | None) -> Terms:
        if objectives is None:
            if is_sentence_model(getattr(self.model, "config", None)):  # it has no labels, but can be evaluated
                return Terms([] if self.teacher is None else [Term(EmbeddingMSE(), 1.0)])
            return _default_objectives(self.teacher, self.compute_loss_func)
        if self.compute_loss_func is not None:
            raise DistillationError(
                "compute_loss_func is given beside objectives, which have no weight for it. Add it to them: "
                "objectives=… + 1.0 * hf_distill.objectives.LossFunction(function)."
            )
        return Terms.of(objectives)

    # ---- a teacher on the disk ----

    def cache_teacher(
        self,
        folder: str | os.PathLike[str],
        *,
        codec: Codec | str | None = None,
        signals: Iterable[Signal] = (),
        max_length: int | None = None,
    ) -> None:
        """Writes what the objectives read of the teacher for the training rows into `folder`, where it is not there
        yet, and trains from the folder from now on: let go of the teacher, and its memory is free.

        `codec`, a name or `teachers.cache.codecs.make(name, settings)`, says how states and a vocabulary's logits are
        written (float16 when left out); narrow logits are kept in float32. `signals` are written as well, and
        `max_length`, which texts were cut to, goes into the fingerprint. See `teachers.Cached`. Every process calls
        it and does its share.

        Raises: `CacheMismatch` for a folder with the cache of something else, or another writer; `IncompatiblePair`
        for signals that no cache holds; `DistillationError` without a teacher, without rows, for an unknown codec,
        and where the objectives read nothing of the teacher. Of an `Ensemble` each member has a folder of its own,
        below `folder`.
        """
        write_teacher(self, folder, codec, signals, max_length)

    # ---- training ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Lets the engine wrap the `Distillation`, and shows the bare student to everything else afterwards."""
        student, distillation = self.model, self.distillation
        if not distillation.is_current:
            self._bind_again(distillation)
        if self.args.save_strategy != "no":
            self._told_run()  # before rows see an epoch, and behind the model, which trials of a search do without
        self._unfreeze()  # a second try with a smaller batch (auto_find_batch_size) comes here without leaving train()
        if not self._measured and resume_from_checkpoint is None:
            self._measure()
        self._measured = True
        if self.optimizer is not None and not isinstance(self.optimizer, AcceleratedOptimizer):
            checks.optimizer_is_complete(self.optimizer, distillation.beside)
        self._frozen = distillation.unreached()
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        with self._optimizer_of_subclass():
            self.model = self.model_wrapped = distillation
            try:
                prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
            finally:
                self.model = student
        if self.args.ddp_broadcast_buffers is None:
            _spare_buffers(self.model_wrapped)
        distillation.list_members()
        self.callback_handler.model = student
        self._begin_watch()
        checks.engine_is_active(self)
        self._num_parameters = student.num_parameters(exclude_embeddings=True)
        return prepared

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer; what objectives train at rates of their own is in groups of its own. One that was
        passed is left as it is.
        """
        passed = self.optimizer is not None
        if model is None and self._for_subclass:
            model = self.distillation
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        own = [] if passed or self._distillation is None else self._distillation.parameter_groups()
        if own:
            regroup(optimizer, own)
        return optimizer

    @contextmanager
    def _optimizer_of_subclass(self) -> Iterator[None]:
        """Has a `create_optimizer` that a subclass wrote see the student, whose parameters it knows by name, and not
        what the engine wraps; if it leaves out what is learned beside the student, that joins in a group of its own.

        Engines that shard parameters make optimizers when they like, and show what they wrap.
        """
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled or checks.loaded_in_shards(self.model)
        if type(self).create_optimizer is DistillationTrainer.create_optimizer or sharded:
            yield
            return
        self._for_subclass = True
        try:
            self.create_optimizer()
        finally:
            self._for_subclass = False
        optimizer: Any = self.optimizer
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        beside = [each for each in self.distillation.beside.parameters() if each.requires_grad]
        if lacking := [parameter for parameter in beside if id(parameter) not in held]:
            optimizer.add_param_group({"params": lacking})
            regroup(optimizer, self.distillation.parameter_groups())
        self.create_optimizer = lambda model=None: self.optimizer  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.create_optimizer  # the method of the class is back

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """The Trainer's estimate, 6 x tokens x parameters without embeddings. It would count these at every step."""
        if not self.is_in_train:
            return int(super().floating_point_ops(inputs))
        tokens = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        return 0 if tokens is None else 6 * tokens.numel() * self._num_parameters

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as the Trainer does. Student parameters that no term reaches are frozen for the time of it.

        `resume_from_checkpoint=True` takes the newest whole checkpoint of the output folder, and tells which it passed
        over and why.

        Raises: `BrokenCheckpoint` for a checkpoint that is not whole, is of another run (unless `resume_despite`
        allows it) or of another `tokens_per_batch` (unless `ignore_data_skip` is set), and for one that cannot be
        written; `NonFiniteLoss`; `DataError` for batches that no model can read, and for a worker of the loader that
        died; `DistillationError` where `torch.compile` fails. Exits: `Preempted` after a SIGTERM, with
        `enable_jit_checkpoint` set.
        """
        if not self.terms:
            raise DistillationError(
                "there is no objective to train with: a sentence encoder has no labels. Give a teacher (teacher=…), "
                "or objectives=…."
            )
        folder = self._begin_run(resume_from_checkpoint)
        filtered, self.args.logging_nan_inf_filter = self.args.logging_nan_inf_filter, False
        try:
            with told_of_workers(), told_of_compiler():
                return super().train(folder, *args, **kwargs)
        finally:
            self.args.logging_nan_inf_filter = filtered
            self._unfreeze()
            release_sigterm(self)
            self._settle()

    def _measure(self) -> None:
        """Tells the terms what they ask of the models before the student trains, on some rows, the same in all
        processes."""
        terms = self.distillation.terms()
        rises = [(each, each.asks) for each in terms if each.asks is not None]
        rows = self._some_rows() if rises else ()
        for objective, asked in rises:
            batches = islice(rows, asked.batches)
            objective.take_rises(loss_rises(self.model, self.distillation.pair.task, asked, batches))
        asking = [each for each in terms if each.asks_vectors]
        if self.teacher is None or self.rehearses or not asking:
            return
        number, shown = max(each.asks_vectors for each in asking), dict[str, Tensor]()
        for objective in asking:
            member = objective.pair.member
            if member not in shown:
                texts = self._some_rows(self.teacher)
                shown[member] = sentence_vectors(self.teacher, texts, number, self.args.device, member)
            objective.take_vectors(shown[member][: objective.asks_vectors])

    def _some_rows(self, reader: Teacher | None = None) -> DataLoader[Any]:
        """Batches of training rows in an order of their own, for a teacher with what that reads of the disk."""
        rows, collator = compared_rows(self)[0]
        return DataLoader(
            rows,
            batch_size=self.args.per_device_train_batch_size,
            shuffle=hasattr(rows, "__len__") or None,
            collate_fn=collator if reader is None else reader.reading(collator),
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _unfreeze(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The units each term counts, and the labels that some count apart, over the accumulation window and all
        processes."""
        for batch in batch_samples:
            lengths = (batch[name].shape[1] if name in batch else 0 for name in ("input_ids", f"{OWN}input_ids"))
            checks.fits_positions(self.distillation.pair, *lengths)
        counted = [self._count(batch) for batch in batch_samples]
        batches = sum(not is_hollow(batch) for batch in batch_samples)
        sums = [sum(column[1:], column[0]) for column in zip(*counted, strict=True)]
        terms = len(self.distillation.objectives)
        if self.accelerator.num_processes == 1:
            divisors = tuple(_divisor(s) if isinstance(s, Tensor) else float(max(s, 1)) for s in sums)
            return Counts(divisors[:terms], float(max(batches, 1)), divisors[terms:])
        apart = sum(objective.counts_labels for objective in self.distillation.terms())
        local = sums or [0] * (terms + apart)  # this process may have no batch left
        learned = bool(self.distillation.weights.learned)
        local += [batches] if learned else []
        totals = [s.to(device) if isinstance(s, Tensor) else torch.full((), s, device=device) for s in local]
        found = _divisor(self._sum_over_ranks(torch.stack(totals))).unbind()
        return Counts(found[:terms], found[-1] if learned else 1.0, found[terms : terms + apart])

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted total of the terms. A call without window counts divides by the batch's own.

        `model` is the engine or, for a call outside `train()`, the student. With `return_outputs` the student's
        outputs follow, with the total as their `loss`; of a student that runs in part they are what ran.
        """
        if model is self.model:
            model = self.distillation
        counts, hollow = num_items_in_batch, inputs.pop(HOLLOW, False)
        if not isinstance(counts, Counts):
            counts = self._get_num_items_in_batch([inputs], self.args.device)
        reads = self._reads_teacher and self.distillation.weights.reads_teacher
        teacher = self.teacher.activations(inputs) if self.teacher is not None and reads else None
        losses: Losses = model(inputs, teacher, counts, return_outputs)
        losses = emptied(losses) if hollow else losses
        if model.training and self.is_in_train:
            self._monitor.add(losses.values)
        # DDP and its kin average gradients over processes; the counts are sums over them.
        total = losses.total * self.accelerator.num_processes if self.accelerator.num_processes > 1 else losses.total
        if not return_outputs:
            return total
        rest = {name: value for name, value in (losses.outputs or {}).items() if name != "loss"}
        return total, ModelOutput(loss=total, **rest)


def _divisor(counts: Tensor) -> Tensor:
    """Counts to divide by, where 0 / 0 is 0. Whole units are at least 1; a window may hold a part of one that is
    counted in fractions (a row of a source with several hypotheses)."""
    return counts.clamp(min=SMALLEST_PART if counts.is_floating_point() else 1)


def _spare_buffers(wrapped: nn.Module) -> None:
    """Has a `DistributedDataParallel` leave buffers alone in its forward passes, where none can come apart.

    It would send them from the first process to all others before each of them. Those of objectives may be large (a
    memory of all training rows) and are changed alike in all processes, and a transformer's own stand still; the
    statistics of a batch norm are of the process's own batches.
    """
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.broadcast_buffers = any(isinstance(module, _NormBase) for module in wrapped.modules())


def _default_objectives(teacher: Teacher | None, function: Callable[..., Any] | None) -> Terms:
    hard = Labels() if function is None else LossFunction(function)
    if teacher is None:
        return Terms.of(hard)
    return Terms([Term(SoftTargets(temperature=2.0), 0.5), Term(hard, 0.5)])
