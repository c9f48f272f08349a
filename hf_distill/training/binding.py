"""Student, teacher and terms, bound to each other in a Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from hf_distill import checks
from hf_distill.anatomy import Anatomy
from hf_distill.data.class_counts import class_counts
from hf_distill.data.numbering import classes_of, numbered
from hf_distill.data.pairs import Partners, pair_up
from hf_distill.distillation import Distillation
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.terms import Terms
from hf_distill.sentence_modules import load_encoder
from hf_distill.sentences import is_sentence_model
from hf_distill.tasks import PROMPT_TOKENS, task_of
from hf_distill.teachers import Frozen, Teacher
from hf_distill.training.policy import OnPolicy


class BoundTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that makes the `Distillation` of its student, its teacher and its terms, and checks what all of this
    is used with. The parts of `DistillationTrainer` build on it.

    Overrides `_set_signature_columns_if_needed`, as teachers, terms and whoever writes read columns that the student
    does not.
    """

    model: PreTrainedModel
    model_wrapped: nn.Module
    data_collator: Any
    train_dataset: Any
    teacher: Teacher | None
    terms: Terms
    label_map: Mapping[str, str] | None
    tokens_per_batch: int | None
    on_policy: OnPolicy | None
    resume_despite: frozenset[str]
    stage = ""
    """The name of the stage, in a run of several."""
    _distillation: Distillation | None = None
    _partners: Partners | None = None
    _reads_teacher: bool
    _measured = False
    """Whether the terms were told what they ask of the student before it trains."""

    def _as_teacher(self, teacher: Any) -> Teacher | None:
        if isinstance(teacher, str | os.PathLike):
            checks.same_tokenizer(self.processing_class, os.fspath(teacher))
            if is_sentence_model(self.model.config):
                return Frozen(load_encoder(os.fspath(teacher)))
            return Frozen.from_pretrained(os.fspath(teacher), task_of(self.model).auto_class)
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

    @property
    def _order_is_of_dropout(self) -> bool:
        """Whether the order of rows is drawn from the generator that dropout draws from; asked before training."""
        rows, shuffled = self.train_dataset, self.args.train_sampling_strategy == "random"
        own = self.tokens_per_batch is not None or hasattr(rows, "epoch_sampler") or not hasattr(rows, "__len__")
        return shuffled and not own and not self.accelerator.use_seedable_sampler

    def _bind(self) -> None:
        if self._distillation is not None:
            self._distillation.close()
        checks.has_peers(self.terms, self.teacher)
        # Engines that shard parameters gather those of the whole model's forward, not those of a part run alone.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled or checks.loaded_in_shards(self.model)
        if self.teacher is not None:
            checks.has_whole_student(self.teacher, sharded)
            self.teacher.meet(self.model)
        pair = self._pair()
        in_part = not sharded and self._may_run_in_part(pair)
        head = None if self.teacher is None else self.teacher.head
        alongside = None if self.teacher is None else self.teacher.alongside
        self._distillation = Distillation(
            self.model, self.terms, pair, in_part=in_part, teacher_head=head, alongside=alongside
        )
        self._measured = False
        self._show_rows(self._distillation)
        self._bind_teacher(self._distillation)
        checks.fits_passes(self, sharded)
        checks.keeps_documents_apart(self, sharded=sharded)
        self._find_partners(self._distillation)

    def _may_run_in_part(self, pair: Pair) -> bool:
        """Without a teacher it is the plain Trainer, bit for bit; what runs in part has other last digits."""
        return self.teacher is not None

    def _show_rows(self, distillation: Distillation) -> None:
        """Numbers the training rows for the terms that keep something of each, and counts their labels for those that
        weigh classes."""
        for objective in distillation.terms():
            if objective.weighs_classes and self.train_dataset is not None:
                objective.see_classes(class_counts(self.train_dataset, objective.pair.student.num_logits))
                objective.to(next(self.model.parameters()).device)
        keeping = [objective for objective in distillation.terms() if objective.reads_rows]
        if not keeping or self.train_dataset is None:
            return
        self.train_dataset = numbered(self.train_dataset)
        labels = classes_of(self.train_dataset)
        for objective in keeping:
            objective.see_rows(len(self.train_dataset), labels)

    def _find_partners(self, distillation: Distillation) -> None:
        """Finds the rows that training rows may bring along, for the terms that ask for it."""
        if self._partners is None and any(objective.batching for objective in distillation.terms()):
            names = getattr(self.model.config, "id2label", None) or {}
            rows = self.train_dataset
            self._partners = None if rows is None else pair_up(rows, self._data_seed, names)

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
        student, task = Anatomy.of(self.model), task_of(self.model)
        settings: dict[str, Any] = {
            "tokenizer_size": tokenizer_size,
            "label_map": self.label_map,
            "label_smoothing": self.args.label_smoothing_factor,
        }
        if self.teacher is None:
            return Pair.of(student, None, task, **settings)
        if self.teacher.tokenizer is not None:
            settings["across"] = checks.two_tokenizers(self.processing_class, self.teacher.tokenizer)
        return self.teacher.pair(student, task, **settings)

    def _bind_teacher(self, distillation: Distillation) -> None:
        """Has the teacher show what the terms read of it, and checks what all of this is used with."""
        checks.fits_arguments(self.args, distillation.needs())
        needs = distillation.reads()
        if self.teacher is not None:
            for model in self.teacher.models:
                checks.apart(self.model, model)
                checks.half_precision_teacher(model, self.args.device)
            self.teacher.bind(needs.teacher)
            self.teacher.advise(distillation.terms())
            mixed = self.accelerator.mixed_precision not in (None, "no")
            self.teacher.place(self.args.device, self.accelerator.autocast if mixed else nullcontext)
            if self.args.torch_compile:
                self.teacher.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        self._reads_teacher = bool(needs.teacher) and (self.teacher is None or self.teacher.alongside is None)
        checks.half_precision_student(self.model)
        checks.fits_data(self, any(isinstance(o, RowWise) and o.reads_labels for o in distillation.terms()))
        checks.fits_batches(self)
        checks.fits_joined_rows(self)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        read = {column for term in self.terms for column in term.objective.columns}
        read |= {PROMPT_TOKENS} if self.on_policy is not None else set()
        extra = {*(self.teacher.accepts if self.teacher is not None else ()), "special_tokens_mask", *read}
        self._signature_columns += sorted(extra - set(self._signature_columns))

    @property
    def _data_seed(self) -> int:
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    @property
    def _has_answers(self) -> bool:
        return self.distillation.pair.task.has_answers

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(values, "sum") if self.accelerator.num_processes > 1 else values
        return summed
