"""The Trainer that distils."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_pt_utils import nested_detach
from transformers.trainer_utils import HubStrategy

from hf_distill import checkpoints, checks
from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.data.batching import LengthGroupedSampler, TokenBudgetSampler, lengths_of, ready_batches
from hf_distill.data.numbering import classes_of, numbered
from hf_distill.data.pairs import PairedCollator, PairedRows, Partners, pair_up
from hf_distill.distillation import Counts, Distillation, Evaluation, Losses
from hf_distill.errors import DistillationError, HubError
from hf_distill.hub.card import Card
from hf_distill.hub.packed import renew_packed
from hf_distill.hub.publish import Published, prepare_repository, publish
from hf_distill.hub.trained import record_of
from hf_distill.monitor import Monitor
from hf_distill.objectives.base import Objective, RowWise
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.response.labels import Labels
from hf_distill.objectives.response.soft_targets import SoftTargets
from hf_distill.objectives.terms import Term, Terms
from hf_distill.parameter_groups import regroup
from hf_distill.students.loss_rises import loss_rises
from hf_distill.tasks import Task
from hf_distill.teachers import Cached, Ensemble, Frozen, Peers, Teacher
from hf_distill.teachers.cache.codecs import Codec, named
from hf_distill.teachers.cache.filling import Order
from hf_distill.teachers.cache.filling import fill as write_cache
from hf_distill.teachers.cache.folder import CacheFolder
from hf_distill.teachers.cache.plan import check_readers
from hf_distill.teachers.cache.scanning import Source
from hf_distill.teachers.ensemble import of_member

logger = logging.getLogger(__name__)

TermsLike = Objective | Term | Terms | Iterable[Objective | Term]


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """A `transformers.Trainer` whose loss is a sum of objectives between the student and a teacher.

    `model` is the student. `teacher` is a loaded model, a path or Hub id, or a `Teacher`. `objectives` are weighted
    terms, `5.0 * SoftTargets(temperature=2.0) + 2.0 * Labels()`; left out, they are half soft targets at temperature 2
    and half labels, or the labels alone without a teacher. `label_map` pairs student label names with teacher label
    names where they differ. `tokens_per_batch` is the most cells, padding included, of a batch of one process: as
    many rows of similar length as fit, in place of `per_device_train_batch_size` (`TokenBudgetSampler`). Cells are
    counted for padding to the longest row; what the collator pads further (`pad_to_multiple_of`) comes on top.
    Everything else is the Trainer's.

    Every term's sum is divided by what it counts over the whole accumulation window and all processes, so results do
    not depend on padding, on how a batch is cut into micro-batches, or on the number of processes. `eval_loss` is the
    task's own loss over all labels. Logs hold `objective/<term>` and `weighted/<term>`, `auxiliary/<term>` of
    two-sided terms, `weight/<term>` of weights that follow a schedule or are learned, and `<term>/<what>` of what else
    a term has to tell. A NaN or infinite loss or gradient moves no weight and stops the run with the term's name
    (`args.logging_nan_inf_filter` is switched off for that).

    `trainer.model` stays the student: checkpoints load with plain `from_pretrained`, and what objectives learn lies
    beside it in `distillation.safetensors`.

    Where the examples do not divide by the processes, accelerate repeats early ones to fill the last batches of an
    epoch, and they count twice; `dataloader_drop_last=True` leaves those batches out.

    Raises: `DistillationError` and its kinds at construction for whatever does not fit.
    """

    loss_is_scaled_for_ga = True
    model: PreTrainedModel
    model_wrapped: nn.Module
    data_collator: Any
    train_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: Any = None,
        *trainer_args: Any,
        teacher: PreTrainedModel | str | os.PathLike[str] | Teacher | None = None,
        objectives: TermsLike | None = None,
        label_map: Mapping[str, str] | None = None,
        tokens_per_batch: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        self._distillation: Distillation | None = None
        self._measured = False
        self._totals: Tensor | None = None  # [losses, 2]: sums and counts of an evaluation
        self._frozen: list[nn.Parameter] = []
        self._num_parameters = 0
        self._epoch_order: Any = None
        self._partners: Partners | None = None
        self._paired: PairedRows | None = None
        self._prepared: Teacher | None = None  # the teacher that has seen the rows
        self.tokens_per_batch = tokens_per_batch
        super().__init__(model, args, *trainer_args, **trainer_kwargs)
        checks.before_training(self)
        checks.fits_token_budget(self)
        checks.fits_grids(self)
        self.args.logging_nan_inf_filter = False
        self.label_map = label_map
        self.teacher = self._as_teacher(teacher)
        self.terms = Terms.of(objectives if objectives is not None else _default_objectives(self.teacher))
        self.add_callback(_EpochOrder(self))
        self.add_callback(_StepWeights(self))
        self.add_callback(_Following(self))
        self._bind()

    # ---- binding ----

    def _as_teacher(self, teacher: Any) -> Teacher | None:
        if isinstance(teacher, str | os.PathLike):
            checks.same_tokenizer(self.processing_class, os.fspath(teacher))
            return Frozen.from_pretrained(os.fspath(teacher), Task.of(self.model).auto_class)
        if teacher is None or isinstance(teacher, Teacher):
            return teacher
        checks.apart(self.model, teacher)  # before it is frozen
        return Frozen(teacher)

    @property
    def distillation(self) -> Distillation:
        """The student and the bound terms, for the model at hand (`model_init` makes a new one for each run)."""
        if self._distillation is None or self._distillation.student is not self.model:
            self._bind()
        return self._distillation  # type: ignore[return-value]

    def _bind(self) -> None:
        if self._distillation is not None:
            self._distillation.close()
        checks.has_peers(self.terms, self.teacher)
        # Engines that shard parameters gather those of the whole model's forward, not those of a part run alone.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled or checks.loaded_in_shards(self.model)
        if self.teacher is not None:
            checks.has_whole_student(self.teacher, sharded)
            self.teacher.meet(self.model)
        # Without a teacher it is the plain Trainer, bit for bit; what runs in part has other last digits.
        in_part = self.teacher is not None and not sharded
        head = None if self.teacher is None else self.teacher.head
        peers = self.teacher if isinstance(self.teacher, Peers) else None
        self._distillation = Distillation(
            self.model, self.terms, self._pair(), in_part=in_part, teacher_head=head, peers=peers
        )
        self._measured = False
        self._show_rows(self._distillation)
        self._bind_teacher(self._distillation)
        checks.fits_passes(self, sharded)
        if self._partners is None and any(objective.batching for objective in self._distillation.terms()):
            names = getattr(self.model.config, "id2label", None) or {}
            rows = self.train_dataset
            self._partners = None if rows is None else pair_up(rows, self._data_seed, names)

    def _show_rows(self, distillation: Distillation) -> None:
        """Numbers the training rows for the terms that keep something of each."""
        keeping = [objective for objective in distillation.terms() if objective.reads_rows]
        if not keeping or self.train_dataset is None:
            return
        self.train_dataset = numbered(self.train_dataset)
        labels = classes_of(self.train_dataset)
        for objective in keeping:
            objective.see_rows(len(self.train_dataset), labels)

    def _bind_again(self, distillation: Distillation) -> None:
        """Reads the student, of which modules or parameters were replaced, anew; what objectives learned stays."""
        distillation.close()
        if self.teacher is not None:
            self.teacher.meet(self.model)
        distillation.refresh(self._pair())
        self._bind_teacher(distillation)
        if self.optimizer is not None:
            checks.optimizer_is_current(self.optimizer, distillation)

    def _pair(self) -> Pair:
        tokenizer_size = len(self.processing_class) if hasattr(self.processing_class, "__len__") else None
        student, task = Anatomy.of(self.model), Task.of(self.model)
        settings: dict[str, Any] = {
            "tokenizer_size": tokenizer_size,
            "label_map": self.label_map,
            "label_smoothing": self.args.label_smoothing_factor,
        }
        if self.teacher is None:
            return Pair.of(student, None, task, **settings)
        return self.teacher.pair(student, task, **settings)

    def _bind_teacher(self, distillation: Distillation) -> None:
        """Has the teacher show what the terms read of it, and checks what all of this is used with."""
        checks.fits_arguments(self.args, distillation.needs())
        needs = distillation.reads()
        if self.teacher is not None:
            for model in self.teacher.models:
                checks.apart(self.model, model)
            self.teacher.bind(needs.teacher)
            self.teacher.advise(distillation.terms())
            mixed = self.accelerator.mixed_precision not in (None, "no")
            self.teacher.place(self.args.device, self.accelerator.autocast if mixed else nullcontext)
            if self.args.torch_compile:
                self.teacher.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        self._reads_teacher = bool(needs.teacher) and not (self.teacher is not None and self.teacher.trains)
        checks.half_precision_student(self.model)
        checks.fits_data(self, any(isinstance(o, RowWise) and o.reads_labels for o in distillation.terms()))
        checks.fits_batches(self)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        read = {column for term in self.terms for column in term.objective.columns}
        extra = {*(self.teacher.accepts if self.teacher is not None else ()), "special_tokens_mask", *read}
        self._signature_columns += sorted(extra - set(self._signature_columns))

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
        members = _to_be_cached(self.teacher)
        if not _has_rows(self.train_dataset):
            raise DistillationError("there are no rows to cache the teacher for; give the trainer train_dataset.")
        codec = named(codec)
        check_readers(codec, self.distillation.pair, self.distillation.terms())
        read = self.distillation.needs().teacher | frozenset(signals)
        orders = {
            name: Order.of(member, of_member(read, name), codec, self.processing_class, max_length)
            for name, member in members.items()
        }
        sources = [Source(rows, collator) for rows, collator in self._rows_for_teacher()]
        try:
            for name, member in members.items():
                place = CacheFolder(Path(folder, name))
                write_cache(place, member, orders[name], sources, self.args.per_device_eval_batch_size)
            cached = {name: Cached(Path(folder, name)) for name in members}
            self.teacher = self.teacher.of(cached) if isinstance(self.teacher, Ensemble) else cached[""]
            self._eval_dataloaders: dict[str, Any] = {}  # those that persistent workers keep do not read the cache
        finally:
            self._bind()  # writing binds the teacher to what is written, also where it is refused

    def _rows_for_teacher(self) -> list[tuple[Any, Any]]:
        """The rows that are compared with the teacher, and what puts them together."""
        found = []
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        for rows in (self.train_dataset, *(() if self._has_labels else evaluated.values())):
            if isinstance(rows, Dataset):
                found.append((self._remove_unused_columns(rows), self.data_collator))
            elif rows is not None:
                found.append((rows, self._get_collator_with_removed_columns(self.data_collator)))
        return found

    @contextmanager
    def _reading_teacher(self) -> Iterator[None]:
        """The batches of loaders that are made meanwhile hold what the teacher reads of the disk."""
        collator = self.data_collator
        if self.teacher is not None and self._reads_teacher:
            if self._prepared is not self.teacher:
                for rows, together in self._rows_for_teacher():
                    self.teacher.prepare(rows, together, self.processing_class)
                self._prepared = self.teacher
            self.data_collator = self.teacher.reading(collator)
        try:
            yield
        finally:
            self.data_collator = collator

    # ---- training ----

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Lets the engine wrap the `Distillation`, and shows the bare student to everything else afterwards."""
        student, distillation = self.model, self.distillation
        if not distillation.is_current:
            self._bind_again(distillation)
        self._unfreeze()  # a second try with a smaller batch (auto_find_batch_size) comes here without leaving train()
        if not self._measured and resume_from_checkpoint is None:
            self._measure()
        self._measured = True
        if self.optimizer is not None and not isinstance(self.optimizer, AcceleratedOptimizer):
            checks.optimizer_is_complete(self.optimizer, distillation.beside)
        self._frozen = distillation.unreached()
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self.model = self.model_wrapped = distillation
        try:
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        finally:
            self.model = student
        if self.args.ddp_broadcast_buffers is None:
            _spare_buffers(self.model_wrapped)
        distillation.list_members()
        self.callback_handler.model = student
        self._monitor = Monitor(
            distillation.columns,
            distillation.weights,
            self.args.device,
            reduce_sum=self._sum_over_ranks,
            reduce_max=self._max_over_ranks if self.accelerator.num_processes > 1 else None,
        )
        self._last_log = self.state.global_step
        checks.engine_is_active(self)
        self._num_parameters = student.num_parameters(exclude_embeddings=True)
        return prepared

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer; what objectives train at rates of their own is in groups of its own. One that was
        passed is left as it is.
        """
        passed = self.optimizer is not None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        own = [] if passed or self._distillation is None else self._distillation.parameter_groups()
        if own:
            regroup(optimizer, own)
        return optimizer

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """The Trainer's estimate, 6 x tokens x parameters without embeddings. It would count these at every step."""
        tokens = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        return 0 if tokens is None else 6 * tokens.numel() * self._num_parameters

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as the Trainer does. Student parameters that no term reaches are frozen for the time of it.

        `resume_from_checkpoint=True` takes the newest whole checkpoint of the output folder.

        Raises: `BrokenCheckpoint` for a checkpoint that is not whole; `NonFiniteLoss`.
        """
        folder = checkpoints.to_resume_from(resume_from_checkpoint, Path(self.args.output_dir))
        try:
            return super().train(folder, *args, **kwargs)
        finally:
            self._unfreeze()

    def _measure(self) -> None:
        """Tells the terms what they ask of the student before it trains, on some rows, the same in all processes."""
        asking = [(objective, objective.asks) for objective in self.distillation.terms() if objective.asks is not None]
        if not asking:
            return
        rows, collator = self._rows_for_teacher()[0]
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_size=self.args.per_device_train_batch_size,
            shuffle=hasattr(rows, "__len__") or None,
            collate_fn=collator,
            generator=torch.Generator().manual_seed(self.args.seed),
        )
        for objective, asked in asking:
            batches = islice(loader, asked.batches)
            objective.take_rises(loss_rises(self.model, self.distillation.pair.task, asked, batches))

    def _unfreeze(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The units each term counts, over the accumulation window and all processes."""
        for batch in batch_samples:
            checks.fits_positions(self.distillation.pair, batch["input_ids"].shape[1] if "input_ids" in batch else 0)
        counted = [self.distillation.count(batch) for batch in batch_samples]
        sums = [sum(column[1:], column[0]) for column in zip(*counted, strict=True)]
        if self.accelerator.num_processes == 1:
            divisors = tuple(s.clamp(min=1) if isinstance(s, Tensor) else float(max(s, 1)) for s in sums)
            return Counts(divisors, float(max(len(batch_samples), 1)))
        terms = len(self.distillation.objectives)
        local = sums or [0] * terms  # this process may have no batch left
        local += [len(batch_samples)] if self.distillation.weights.learned else []
        totals = [s.to(device) if isinstance(s, Tensor) else torch.full((), s, device=device) for s in local]
        found = self._sum_over_ranks(torch.stack(totals)).clamp(min=1).unbind()
        return Counts(found[:terms], *found[terms:])

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted total of the terms. A call without window counts divides by the batch's own.

        `model` is the engine or, for a call outside `train()`, the student.
        """
        if model is self.model:
            model = self.distillation
        counts = num_items_in_batch
        if not isinstance(counts, Counts):
            counts = self._get_num_items_in_batch([inputs], self.args.device)
        reads = self._reads_teacher and self.distillation.weights.reads_teacher
        teacher = self.teacher.activations(inputs) if self.teacher is not None and reads else None
        losses: Losses = model(inputs, teacher, counts)
        if model.training and self.is_in_train:
            self._monitor.add(losses.values)
        # DDP and its kin average gradients over processes; the counts are sums over them.
        total = losses.total * self.accelerator.num_processes if self.accelerator.num_processes > 1 else losses.total
        return (total, {"loss": total}) if return_outputs else total

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        alone = self.accelerator.distributed_type == DistributedType.NO and self.accelerator.scaler is None
        if grad_norm is None and alone:
            # Nothing is clipped; accelerate would still multiply every gradient, by 1.
            grad_norm = get_total_norm(self.distillation.gradients())
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # A loss scaler meets infinite gradients by design, and skips them.
        scaled = self.accelerator.scaler is not None
        held_back = self._monitor.watch(None if scaled else torch.as_tensor(norm, device=self.args.device))
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        if scaled:
            return norm
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = held_back
        else:
            self._monitor.read(self.state.global_step + 1)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        if control.should_training_stop or self.state.global_step >= self.state.max_steps:
            control.should_log = True  # the steps since the last log would never be seen
        if control.should_log or control.should_save or control.should_evaluate:
            self._monitor.read(self.state.global_step)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms' values to a training log."""
        if self.is_in_train and "loss" in logs:
            steps = self.state.global_step - self._last_log
            logs.update(self._monitor.take(steps))
            self._last_log = self.state.global_step
            for remark in self.distillation.remarks():
                logger.warning("%s", remark)
        super().log(logs, start_time)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(values, "sum") if self.accelerator.num_processes > 1 else values
        return summed

    def _max_over_ranks(self, value: Tensor) -> Tensor:
        largest: Tensor = self.accelerator.gather(value).max()
        return largest

    # ---- evaluation ----

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """Evaluation runs through the `Distillation`, too, and is never marked as prepared: a later `train()` must
        wrap it.
        """
        if training:
            wrapped: nn.Module = super()._wrap_model(model, training=training, dataloader=dataloader)
            return wrapped
        engine_owns_weights = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self.model_wrapped if engine_owns_weights and self.is_in_train else self.distillation

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's loop; the loss is the sum over all labels divided by their number, whatever the batches.

        A model without a head has no loss of its own; there it is the weighted sum of the objectives.
        """
        prefix = kwargs.get("metric_key_prefix") or (args[2] if len(args) > 2 else "eval")
        self._totals = None
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if self._totals is not None:
            means = [total / count if count else float("nan") for total, count in self._totals.tolist()]
            named = zip(self.distillation.objectives, means, strict=False)
            loss = means[0] if self._has_labels else self.distillation.weights.total(dict(named))
            output.metrics[f"{prefix}_loss"] = loss
        return output

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """The task's own loss and the student's outputs for one batch; the teacher does not run."""
        inputs = self._prepare_inputs(inputs)
        if not self._has_labels:
            return self._evaluate_objectives(model, inputs), None, None
        with torch.no_grad(), self.accelerator.autocast():
            evaluation: Evaluation = model(inputs)
        loss = self._add_to_totals(evaluation)
        if prediction_loss_only:
            return loss, None, None
        if ignore_keys is None:
            ignore_keys = getattr(self.model.config, "keys_to_ignore_at_inference", ["cache"])
        kept = tuple(value for key, value in evaluation.outputs.items() if key not in [*ignore_keys, "loss"])
        logits = nested_detach(kept[0] if len(kept) == 1 else kept)
        labels = None
        if self.label_names and all(inputs.get(name) is not None for name in self.label_names):
            found = nested_detach(tuple(inputs[name] for name in self.label_names))
            labels = found[0] if len(found) == 1 else found
        return loss, logits, labels

    def _add_to_totals(self, evaluation: Evaluation) -> Tensor | None:
        if evaluation.sums is None or evaluation.counts is None:
            return None
        rows = torch.stack([evaluation.sums.double(), evaluation.counts.double()], 1)
        # without the rows that fill the last batch
        gathered = self.accelerator.gather_for_metrics(rows).sum(0, keepdim=True)
        self._totals = gathered if self._totals is None else self._totals + gathered
        return evaluation.sums.sum() / evaluation.counts.sum().clamp(min=1)

    @property
    def _has_labels(self) -> bool:
        return bool(self.distillation.pair.task.label_names)

    def _evaluate_objectives(self, model: nn.Module, inputs: Any) -> Tensor | None:
        """The objectives' sums and counts of one batch; what a sampler repeats to fill the last batch counts twice."""
        teacher = self.teacher.activations(inputs) if self.teacher is not None and self._reads_teacher else None
        if teacher is None:
            return None
        counted = self.distillation.count(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            losses: Losses = model(inputs, teacher, Counts((1.0,) * len(counted)))
        counts = torch.stack([torch.as_tensor(count, device=losses.values.device) for count in counted])
        sums = self._sum_over_ranks(torch.stack([losses.values[: len(counts)].double(), counts.double()], 1))
        self._totals = sums if self._totals is None else self._totals + sums
        return losses.total

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The Trainer's loader; the batches of a model without a head are compared with the teacher's."""
        with nullcontext() if self._has_labels else self._reading_teacher():
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[no-any-return]

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """The Trainer's loader, as `get_eval_dataloader`."""
        with nullcontext() if self._has_labels else self._reading_teacher():
            return super().get_test_dataloader(test_dataset)  # type: ignore[no-any-return]

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """In the data set's own order, also where training groups by length: predictions are written row by row."""
        strategy = self.args.train_sampling_strategy
        self.args.train_sampling_strategy = "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = strategy

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's loader, or one of batches with a budget of tokens."""
        with self._reading_teacher(), self._pairing():
            return self._train_loader()

    @contextmanager
    def _pairing(self) -> Iterator[None]:
        """The rows of loaders that are made meanwhile bring partners, where an objective asks for them."""
        rows, collator = self.train_dataset, self.data_collator
        if self._partners is None or rows is None:
            yield
            return
        if isinstance(rows, Dataset):
            self._paired = PairedRows(self._remove_unused_columns(rows, description="training"), self._partners)
            self.data_collator = PairedCollator(collator)
        else:
            self._paired = PairedRows(rows, self._partners)
            self.data_collator = PairedCollator(self._get_collator_with_removed_columns(collator, "training"))
        self.train_dataset = self._paired
        try:
            yield
        finally:
            self.train_dataset, self.data_collator = rows, collator

    def _train_loader(self) -> DataLoader[Any]:
        if self.tokens_per_batch is None or self.train_dataset is None:  # which the Trainer tells
            return super().get_train_dataloader()  # type: ignore[no-any-return]
        rows, collate = self.train_dataset, self.data_collator
        self._epoch_order = self._token_batches(rows, self.tokens_per_batch)
        if isinstance(rows, Dataset):
            rows = self._remove_unused_columns(rows, description="training")
        else:
            collate = self._get_collator_with_removed_columns(collate, description="training")
        evened, self.accelerator.even_batches = self.accelerator.even_batches, False  # the sampler sees to that
        try:
            loader: DataLoader[Any] = self.accelerator.prepare(
                ready_batches(rows, self._epoch_order, collate, self.args)
            )
        finally:
            self.accelerator.even_batches = evened
        return loader

    def _token_batches(self, rows: Any, tokens: int) -> TokenBudgetSampler:
        seed, drop_last = self._data_seed, self.args.dataloader_drop_last
        processes = self.accelerator.num_processes
        if hasattr(rows, "epoch_batches"):
            packed: TokenBudgetSampler = rows.epoch_batches(seed, tokens, processes=processes, drop_last=drop_last)
            return packed
        lengths = lengths_of(rows, self.args.length_column_name)
        return TokenBudgetSampler(lengths, tokens, seed, processes=processes, drop_last=drop_last)

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows of an optimizer step over all processes; their mean where batches have a budget of tokens."""
        if not isinstance(self._epoch_order, TokenBudgetSampler):
            return int(super().get_total_train_batch_size(args))
        batches = len(self._epoch_order)
        step: int = args.gradient_accumulation_steps * self._epoch_order.processes
        return round(len(self._epoch_order.lengths) * min(step, batches) / batches)

    @property
    def _data_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Length groups are drawn from seed and epoch alone, so that a resumed run sees the batches it would have
        seen; so are the rows of a data set that brings its own order (`PackedRows.epoch_sampler`).
        """
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        dataset = dataset.rows if isinstance(dataset, PairedRows) else dataset
        dealt = {
            "processes": 1 if self.accelerator.split_batches else self.accelerator.num_processes,
            "accumulation": self.args.gradient_accumulation_steps,
        }
        if hasattr(dataset, "epoch_sampler"):
            self._epoch_order = dataset.epoch_sampler(self._data_seed, self._train_batch_size, **dealt)
            return self._epoch_order
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        column = self.args.length_column_name  # of `dataset` it is removed by now
        named = column in getattr(self.train_dataset, "column_names", [])
        lengths = lengths_of(self.train_dataset if named else dataset, column)
        self._epoch_order = LengthGroupedSampler(lengths, self._train_batch_size, self._data_seed, **dealt)
        return self._epoch_order

    # ---- checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The student, and beside it what the objectives learned; the arguments as JSON, never as a pickle."""
        super()._save(output_dir, state_dict=state_dict)
        if self.args.should_save:
            folder = Path(output_dir if output_dir is not None else self.args.output_dir)
            checkpoints.replace_pickled_arguments(folder, self.args)
            checkpoints.write_objectives(folder, self.distillation.learned)
            checkpoints.write_teacher(folder, self.teacher)
            renew_packed(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoints.read_objectives(Path(resume_from_checkpoint), self.distillation.learned)
        checkpoints.read_teacher(Path(resume_from_checkpoint), self.teacher)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            checkpoints.read_objectives(Path(self.state.best_model_checkpoint), self.distillation.learned)
            checkpoints.read_teacher(Path(self.state.best_model_checkpoint), self.teacher)

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Finds out before training whether the student can be published, and makes the repository (private by
        default).
        """
        if token is not None or self.args.hub_token is not None:
            raise HubError(
                "a token is taken from `hf auth login` or HF_TOKEN alone, where it cannot be written down by accident."
            )
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        if self.is_world_process_zero():
            self.hub_model_id = prepare_repository(
                self.hub_model_id, private=self._is_private(private), revision=self.args.hub_revision
            )

    def _is_private(self, private: bool | None = None) -> bool:
        asked = self.args.hub_private_repo if private is None else private
        return True if asked is None else asked

    def create_model_card(self, language: str | list[str] | None = None, license: str | None = None, **_: Any) -> None:
        """Writes the record and the card of this run into the output folder."""
        if self.is_world_process_zero():
            record = record_of(self)
            record.write(self.args.output_dir)
            card = Card.from_record(record, repo_id=self.hub_model_id, language=language or "en", license=license)
            card.write(self.args.output_dir)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Published | None:
        """Saves and publishes student, tokenizer, card and record; all processes call it, the first one returns the
        result.

        The upload is compared with the folder before it returns, so it always blocks. `create_pr=True` opens a pull
        request; further arguments go to the card (`language`, `license`).

        Raises: `HubError` with the repository, the status and the remedy.
        """
        if not blocking:
            raise HubError("push_to_hub(blocking=False) could not report a failure; leave it out.")
        create_pr = bool(kwargs.pop("create_pr", False))
        if self.hub_model_id is None or token is not None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        return publish(
            self.args.output_dir,
            self.hub_model_id,
            private=self._is_private(private),
            revision=revision or self.args.hub_revision,
            commit_message=commit_message or "End of training",
            create_pr=create_pr,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publishes the student of a checkpoint, without optimizer, random state or any pickle."""
        if self.args.hub_strategy != HubStrategy.END and self.is_world_process_zero():
            publish(
                checkpoint_folder,
                self.hub_model_id,
                private=self._is_private(),
                revision=self.args.hub_revision,
                commit_message=f"Training in progress, step {self.state.global_step}",
            )


class _EpochOrder(TrainerCallback):  # type: ignore[misc]
    """Tells a sampler that makes its own order which epoch it is: on a resume within an epoch, with several processes,
    nobody else does.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer._epoch_order is not None:
            self._trainer._epoch_order.set_epoch(int(state.epoch or 0))
        if self._trainer._paired is not None:
            self._trainer._paired.set_epoch(int(state.epoch or 0))


class _StepWeights(TrainerCallback):  # type: ignore[misc]
    """Puts the weights of a step in place before its first micro-batch; they follow from the step alone."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checks.fits_steps(self._trainer, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.distillation.weights.set(state.global_step / max(state.max_steps, 1))
        self._trainer._monitor.begin()


class _Following(TrainerCallback):  # type: ignore[misc]
    """Tells the teacher that the student has moved, and that an epoch is over; at the end the terms have a word."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.teacher is not None:
            self._trainer.teacher.after_step(int(state.global_step))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.teacher is not None:
            self._trainer.teacher.after_epoch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for conclusion in self._trainer.distillation.conclusions():
            logger.warning("%s", conclusion)


def _spare_buffers(wrapped: nn.Module) -> None:
    """Has a `DistributedDataParallel` leave buffers alone in its forward passes, where none can come apart.

    It would send them from the first process to all others before each of them. Those of objectives may be large (a
    memory of all training rows) and are changed alike in all processes, and a transformer's own stand still; the
    statistics of a batch norm are of the process's own batches.
    """
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.broadcast_buffers = any(isinstance(module, _NormBase) for module in wrapped.modules())


def _has_rows(rows: Any) -> bool:
    """A stream, whose length is not known, counts as rows."""
    return rows is not None and (not hasattr(rows, "__len__") or len(rows) > 0)


def _to_be_cached(teacher: Teacher | None) -> dict[str, Frozen]:
    """The models that are written down: a teacher, or the members of several, by name."""
    members = teacher.members if isinstance(teacher, Ensemble) else {"": teacher}
    found = {name: member for name, member in members.items() if isinstance(member, Frozen)}
    if len(found) < len(members):
        raise DistillationError(
            "there is no teacher to be cached; give the trainer one (teacher=…), a model that stays as it is."
        )
    return found


def _default_objectives(teacher: Teacher | None) -> Terms:
    if teacher is None:
        return Terms.of(Labels())
    return Terms([Term(SoftTargets(temperature=2.0), 0.5), Term(Labels(), 0.5)])
