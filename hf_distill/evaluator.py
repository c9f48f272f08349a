"""How a student is evaluated: by what it gives, and by its task's own loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.response.labels import Labels
from hf_distill.tasks import Batch, device_type
from hf_distill.word_answers import WordReader, word_answers


class Evaluation(NamedTuple):
    """The student's whole output and, where there are labels, the task's loss summed and counted by example."""

    outputs: ModelOutput
    sums: Tensor | None
    counts: Tensor | None


class Evaluator:
    """Reads a student that runs whole, and compares what it gives with the labels: no term, and no teacher.

    A language model may answer in words instead, as `word_answers` has it, and beside a teacher if there is one.
    """

    def __init__(self, pair: Pair) -> None:
        # A model without a head has none.
        self._losses = (Labels(label_smoothing=0.0),) if pair.task.label_names else ()
        self._in_words, self._in_part = False, True
        self._reader: WordReader | None = None
        self._beside: nn.Module | None = None
        self._teacher: WordReader | None = None
        self.bind(pair)

    def bind(self, pair: Pair) -> None:
        """What the student makes with its teacher."""
        self._task = pair.task
        for loss in self._losses:
            loss.bind(pair)

    def look(self, anatomy: Anatomy) -> None:
        """Makes what reads the student, of the modules that it has now, and what reads the teacher beside it."""
        signals = [signal for loss in self._losses for signal in loss.needs().student]
        signals += [Signal(field) for field in self._task.shown_fields]
        self._capture = Capture(anatomy, signals, role="evaluation")
        if self._in_words:
            self._read_words(anatomy)

    def answer_in_words(self, anatomy: Anatomy, teacher: nn.Module | None, *, in_part: bool) -> None:
        """See `Distillation.answer_in_words`."""
        self._close_readers()
        self._in_words, self._in_part, self._beside = True, in_part, teacher
        self._read_words(anatomy)

    def _read_words(self, anatomy: Anatomy) -> None:
        beside = self._beside
        self._reader = WordReader(anatomy, in_part=self._in_part)
        self._teacher = None if beside is None else WordReader(Anatomy.of(beside.eval()))

    @property
    def blanks(self) -> dict[str, int]:
        """The columns of symbols that are aligned with frames, each with its blank."""
        return {name: blank for loss in self._losses for name, blank in loss.blanks.items()}

    def close(self) -> None:
        """Takes the hooks off the models."""
        self._close_readers()
        self._capture.close()

    def _close_readers(self) -> None:
        for reader in (self._reader, self._teacher):
            if reader is not None:
                reader.close()

    def __call__(self, batch: Batch) -> Evaluation:
        """The evaluation of a batch."""
        task = self._task
        if self._reader is not None and "labels" in batch:
            found = word_answers(self._reader, task, batch, self._teacher)
            mask = task.label_mask(batch)
            return Evaluation(ModelOutput(logits=found), torch.where(mask, found[..., 1], 0.0).sum(1), mask.sum(1))
        outputs, activations = self._capture(batch)
        if task.shown_fields:
            outputs = ModelOutput({field: getattr(activations, field) for field in task.shown_fields})
        if not self._losses or any(name not in batch for name in task.label_names):
            return Evaluation(outputs, None, None)
        with torch.autocast(device_type(batch), enabled=False):
            values = self._losses[0].values(activations, None, batch)
        mask = task.label_mask(batch)
        examples = task.num_examples(batch)
        kept = torch.where(mask, values, values.new_zeros(()))
        return Evaluation(outputs, kept.reshape(examples, -1).sum(1), mask.reshape(examples, -1).sum(1))
