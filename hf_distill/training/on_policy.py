"""Has the student, or the teacher, write texts in place of those of the data while the student trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill import checks
from hf_distill.drawn_tokens import Law
from hf_distill.teachers import Frozen
from hf_distill.teachers.cache.scanning import same_random_numbers
from hf_distill.training.binding import BoundTrainer
from hf_distill.training.longest_prompt import longest_prompt
from hf_distill.training.policy import OnPolicy, Source
from hf_distill.training.repeated import is_hollow
from hf_distill.training.sampling import Sampling, numbers, special_token, write
from hf_distill.training.teacher_cache import compared_rows
from hf_distill.training.texts import Prompts, answered, continued, prompts_of
from hf_distill.training.writing_cost import Cost

_LOOKED_AT = 32
"""Rows that are looked at before training."""
_STRIDE = 2**20
"""Places between two batches where these differ in rows; more than any has."""


class OnPolicyTrainer(BoundTrainer):
    """Overrides `get_batch_samples`, in which texts are written before anything of the window is counted, and `log`,
    which adds what that cost. It takes the batches of a window together, so it stands behind `Repeated`, which looks
    at each as it leaves the loader.

    Texts are drawn with numbers that follow from seed, step and row alone, in eval mode: none of the generators that
    a checkpoint restores is used, as in a resumed epoch they are restored after this. Each process writes for its own
    rows and waits for no other one.
    """

    on_policy: OnPolicy | None
    _sampling: Sampling
    _cost: Cost

    def _begin_on_policy(self) -> None:
        """Checks the settings with all that they are used with, and finds out how texts end."""
        if self.on_policy is None:
            return
        checks.fits_on_policy(self, self.on_policy)
        ends, padding = _ends(self, self.on_policy), _padding(self)
        checks.texts_end(ends, padding)
        settings = self.on_policy
        law = Law(settings.temperature, settings.top_k, settings.top_p, self.distillation.pair.vocabulary)
        self._sampling = Sampling(law, settings.max_new_tokens, ends, ends[0] if padding is None else padding)
        self._cost = Cost(self.args.device)
        batch = _some_rows(self, self.on_policy)
        if batch is not None:
            self._prompts([batch], self.on_policy)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of one optimizer step, with the texts that are written for it, and their counts."""
        if self.on_policy is not None:
            window = list(islice(epoch_iterator, num_batches))
            epoch_iterator = iter(self._rewritten(window, self.on_policy))
        found: tuple[list[Any], Any] = super().get_batch_samples(epoch_iterator, num_batches, device)
        return found

    def _rewritten(self, window: list[Any], settings: OnPolicy) -> list[Any]:
        """The batches of a step, with texts of the student or of the teacher if it is their turn."""
        step = int(self.state.global_step)
        source = settings.source(self.args.seed, step)
        self._cost.step(source)
        if source == "data" or not window:  # of an epoch's last step a process may have no batch
            return window
        with self._cost.timed():
            prompts = self._prompts(window, settings)
            drawn = numbers(self.args.seed, step, self._places(prompts.sizes), settings.max_new_tokens)
            model, precision = self._writer(source)
            with precision():
                written = write(model, prompts, self._sampling, drawn, settings.rows_at_once)
        counted = torch.stack([written.mask.sum(1), written.ended.long()])[:, _own(window, prompts.sizes)]
        lengths, ended = counted.tolist()
        self._cost.add(lengths, ended)
        if self._decodes_alone:
            return continued(window, prompts, written, self._sampling.padding)
        return answered(window, prompts, written)

    @property
    def _decodes_alone(self) -> bool:
        return self.distillation.pair.task.name == "causal_lm"

    def _writer(self, source: Source) -> tuple[PreTrainedModel, Any]:
        """The model that writes, and the mixed precision that it runs under."""
        if source == "student":
            return self.model, self.accelerator.autocast
        assert isinstance(self.teacher, Frozen)  # checked when the trainer was made
        return self.teacher.model, self.teacher.autocast

    def _prompts(self, window: Sequence[Mapping[str, Tensor]], settings: OnPolicy) -> Prompts:
        prompts = prompts_of(
            window,
            decoder=self._decodes_alone,
            prompt_tokens=settings.prompt_tokens,
            padding=self._sampling.padding,
        )
        checks.fits_texts(self, prompts.ids.shape[1], settings.max_new_tokens)
        return prompts

    def _places(self, sizes: Sequence[int]) -> list[int]:
        """Where the rows of this process stand among all rows of the step: batch after batch, as the processes take
        turns at them. Cut into batches, or dealt out to processes, in another way, rows have the same places."""
        accelerator = self.accelerator
        stride = _STRIDE if self.tokens_per_batch is not None else max(self._train_batch_size, *sizes)
        batches = [i * accelerator.num_processes + accelerator.process_index for i in range(len(sizes))]
        return [batch * stride + row for batch, size in zip(batches, sizes, strict=True) for row in range(size)]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was written, and what that cost, to a training log."""
        if self.on_policy is not None and self.is_in_train and "loss" in logs:
            logs.update(self._cost.read(self))
        super().log(logs, start_time)


def _own(window: Sequence[Any], sizes: Sequence[int]) -> list[int]:
    """The rows of a window that are not there for other processes alone."""
    hollow = [is_hollow(batch) for batch, size in zip(window, sizes, strict=True) for _ in range(size)]
    return [row for row, empty in enumerate(hollow) if not empty]


def _some_rows(trainer: OnPolicyTrainer, settings: OnPolicy) -> Mapping[str, Tensor] | None:
    """Some rows from the first to the last in a batch, and that with the longest prompt; None for a stream."""
    if trainer.train_dataset is None:
        return None
    rows, collator = compared_rows(trainer)[0]
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__") or not len(rows):
        return None
    last = len(rows) - 1
    longest = longest_prompt(rows, decoder=trainer._decodes_alone, prompt_tokens=settings.prompt_tokens)
    known = [] if longest is None else [longest]
    picked = sorted({i * last // (_LOOKED_AT - 1) for i in range(_LOOKED_AT)}.union(known))
    with same_random_numbers():
        batch: Mapping[str, Tensor] = collator([rows[i] for i in picked])
    return batch


def _ends(trainer: OnPolicyTrainer, settings: OnPolicy) -> tuple[int, ...]:
    """The tokens that end a text: those of the student's generation config, that of its tokenizer, which the Trainer
    adds to them when training begins, and those that are asked for."""
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    own = special_token(trainer.model, "eos_token_id")
    found = [*(own if isinstance(own, list | tuple) else [own]), getattr(tokenizer, "eos_token_id", None)]
    told = [int(token) for token in found if token is not None]
    return tuple(dict.fromkeys([*told, *checks.tokens_of(trainer.processing_class, settings.end_tokens)]))


def _padding(trainer: OnPolicyTrainer) -> int | None:
    own = special_token(trainer.model, "pad_token_id")
    found = getattr(trainer.processing_class, "pad_token_id", None) if own is None else own
    return None if found is None else int(found)
