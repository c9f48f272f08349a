"""Students cut from their teacher, by the places of layers or by what is measured on the first training rows."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.hub.record import CutFacts
from hf_distill.ranks import share_tensors
from hf_distill.recipe import Recipe
from hf_distill.recipe import Student as StudentSection
from hf_distill.runs.workload import Limits, Workload
from hf_distill.students.block_importance import MEASURED
from hf_distill.students.importance import Ranking
from hf_distill.students.layers import cut_layers
from hf_distill.students.shape import Cut, cut_shape

ROWS, BATCH = 256, 32
"""Training rows on which the importance of a teacher's weights is measured, and how many at a time."""

SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")


class Made(NamedTuple):
    """A student before training, and what was measured to cut it; None where nothing was."""

    student: PreTrainedModel
    cut: CutFacts | None


@dataclass(frozen=True)
class Cutter:
    """Cuts students of one teacher. `limits` is what it can read."""

    recipe: Recipe
    workload: Workload
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limits: Callable[[Recipe, PreTrainedModel], Limits]

    def cut(self, section: StudentSection) -> Made:
        """The student of `from_layers` or `from_shape`, corrected where `few_sample` is asked for; the same in all
        processes, whatever their last digits.

        Raises: `IncompatiblePair` and `DataError`, as the makers.
        """
        student, found = self._by_layers(section) if section.from_layers is not None else self._by_shape(section)
        self._recover(student, section, found.kept.layers)
        facts = self._facts(section, found)
        if facts is not None or section.few_sample is not None:
            share_tensors(student.state_dict().values())
        return Made(student, facts)

    def _by_layers(self, section: StudentSection) -> tuple[PreTrainedModel, Cut]:
        asked = section.from_layers
        assert asked is not None
        batches = self._calibration(asked.calibration_rows or ROWS, asked.pick) if asked.pick in MEASURED else None
        student, kept = cut_layers(
            self.teacher, asked.layers, asked.pick, contiguous=bool(asked.contiguous), calibration=batches
        )
        return student, Cut(kept)

    def _by_shape(self, section: StudentSection) -> tuple[PreTrainedModel, Cut]:
        asked = section.from_shape
        assert asked is not None
        measures = asked.initialisation == "importance"
        return cut_shape(
            self.teacher,
            {name: getattr(asked, name) for name in SIZES},
            initialisation=asked.initialisation,
            calibration=self._calibration(asked.calibration_rows or ROWS, asked.pick) if measures else None,
            pick=asked.pick,
            contiguous=bool(asked.contiguous),
            ranking=Ranking(asked.ranking or "added", asked.over_texts, asked.over_tokens),
            steps=asked.steps or 1,
        )

    def _recover(self, student: PreTrainedModel, section: StudentSection, layers: dict[str, list[int]]) -> None:
        """Corrects a student on the first training rows; `layers` are those of its teacher that it has."""
        if section.few_sample is None:
            return
        settings = section.few_sample.model_dump()
        batches = self._calibration(settings.pop("sentences"), "")
        students.recover(student, self.teacher, batches, layers=layers.get(""), **settings)

    def _calibration(self, number: int, pick: str) -> Iterator[dict[str, Tensor]]:
        """The first training rows in batches, as the teacher reads them; for a loss with labels as it counts them."""
        readable = self.limits(self.recipe, self.teacher)
        read = self.workload.read(copy.deepcopy(self.tokenizer), readable, ["train"])["train"]
        if pick == "loss_rise":
            read = self.workload.in_model_order(read, self.workload.fit(self.teacher, "teacher"))
        rows, collator = iter(read), self.workload.collator(self.tokenizer)
        while number > 0 and (taken := list(itertools.islice(rows, min(number, BATCH)))):
            number -= len(taken)
            batch = collator([{name: row[name] for name in row if name in readable.input_names} for row in taken])
            yield {name: value for name, value in batch.items() if isinstance(value, Tensor)}

    def _facts(self, section: StudentSection, found: Cut) -> CutFacts | None:
        maker = section.from_layers or section.from_shape
        if maker is None or not (found.kept.scores or found.hidden is not None):
            return None
        narrower = found.hidden is not None and len(found.hidden) < Anatomy.of(self.teacher).shape.stack().hidden_size
        return CutFacts(
            layers={stack or "layers": layers for stack, layers in found.kept.layers.items()},
            pick=maker.pick,
            scores={stack or "layers": scores for stack, scores in found.kept.scores.items()},
            hidden=(found.hidden or []) if narrower else [],
            rows=maker.calibration_rows or ROWS,
        )
