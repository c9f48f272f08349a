"""Sounds, and the texts that are said in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Wav2Vec2Processor

from hf_distill.data.speech import BLANK, SAID, SOUND, SPACE, SpeechCollator, SpokenTexts, hear, spoken_texts
from hf_distill.errors import DataError, IncompatiblePair, NonFiniteLoss
from hf_distill.evaluation.edits import edits, split_at
from hf_distill.evaluation.evidence import Evidence, error_rate
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.hub.record import DataFacts
from hf_distill.loading import load_feature_extractor
from hf_distill.recipe import Data, Recipe, Student
from hf_distill.recipe.sections.data import Speech as Settings
from hf_distill.runs.labels import Columns
from hf_distill.runs.workload import Collator, Limits
from hf_distill.runs.workloads.labelled_rows import LabelledRows
from hf_distill.runs.workloads.splits import at_most, data_facts, data_name, tables_of, with_cuts
from hf_distill.tasks import CTC, IGNORED, task_of

SAMPLE = 50
BROKEN = -1
"""In place of the symbol of a frame whose logits are NaN."""
NOT_COMPARED = ("processor_class", "feature_extractor_type")


@dataclass(frozen=True)
class Heard:
    """What a model took the sounds of a split for, and what is said in them, as symbols, in the order of the rows;
    `space` is the symbol for the end of a word."""

    found: Sequence[tuple[int, ...]]
    wanted: Sequence[tuple[int, ...]]
    space: int


@dataclass(frozen=True)
class Speech(LabelledRows):
    """A model is judged by the most probable symbol of each frame, repeated ones taken once and blanks left out,
    without a language model: `wer` and `cer` are the edits that make the texts of these, in words and in characters,
    by the number of words and characters in the texts. Every split has texts.

    The feature extractor is that beside the tokenizer; one at `revisions[path]` where it is on the Hub.
    """

    auto_class = CTC.auto_class
    metrics = ("wer", "cer")
    rows_are = "sounds"

    name: str
    data: SpokenTexts
    settings: Settings
    revisions: Mapping[str, str | None]

    # ---- the data ----

    def facts(self, recipe: Recipe) -> DataFacts:
        """With the sums of the sound files in place of their paths."""
        splits = {name: Dataset.from_list([_told(row) for row in rows]) for name, rows in self.splits.items()}
        return data_facts(recipe, self.name, splits, self.sources, self._hub_facts(recipe))

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        yield from self.splits["train"][:SAMPLE][SAID]

    def check_reading(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
        """The blank, the number of symbols, and, of models that come with one, the feature extractor."""
        task = task_of(model)
        if not isinstance(task, CTC) or task.blank != tokenizer.pad_token_id:
            blank = getattr(task, "blank", "none")
            raise IncompatiblePair(
                f"the {role} has the blank {blank} (pad_token_id in its config.json), and the tokenizer "
                f"{tokenizer.pad_token_id} ({tokenizer.pad_token!r}); they must be the same."
            )
        symbols, known = int(model.config.vocab_size), int(tokenizer.vocab_size)
        if symbols < known:
            raise IncompatiblePair(
                f"the {role} hears {symbols} symbols, and the tokenizer has {known}; take the tokenizer that it was "
                "trained with."
            )
        if model.name_or_path and str(model.name_or_path) != str(tokenizer.name_or_path):
            self._check_same_extractor(model, tokenizer, role)

    def _check_same_extractor(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
        path = str(model.name_or_path)
        theirs = load_feature_extractor(path, role=role, revision=self.revisions.get(path)).to_dict()
        ours = self.extractor(tokenizer).to_dict()
        names = sorted((ours.keys() | theirs.keys()) - set(NOT_COMPARED))
        differing = next((name for name in names if ours.get(name) != theirs.get(name)), None)
        if differing is not None:
            raise IncompatiblePair(
                f"the feature extractors differ: {differing} is {ours.get(differing)} for "
                f"{str(tokenizer.name_or_path)!r} and {theirs.get(differing)} for the {role} {path!r}. All must hear "
                "the same: save the teacher's beside the student."
            )

    # ---- reading ----

    def extractor(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The feature extractor beside a tokenizer. Raises: `DistillationError` where there is none."""
        path = str(tokenizer.name_or_path)
        return load_feature_extractor(path, role="tokenizer's folder", revision=self.revisions.get(path))

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Dataset]:
        """See `hf_distill.data.speech.hear`. Nothing is cut, as texts would no longer be those of the sounds."""
        extractor, rate = self.extractor(tokenizer), self.settings.sampling_rate
        names = self.splits if splits is None else splits
        return {name: hear(self.splits[name], extractor, tokenizer, rate, limits.shortest) for name in names}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return SpeechCollator(self.extractor(tokenizer))

    def saved_with(self, tokenizer: PreTrainedTokenizerBase) -> Wav2Vec2Processor:
        """The tokenizer with the feature extractor."""
        return Wav2Vec2Processor(self.extractor(tokenizer), tokenizer)

    # ---- judging ----

    def reduce(self, outputs: Any, labels: Any) -> Tensor:
        """The most probable symbol of each frame, `[rows, frames]`."""
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return torch.where(logits.isnan().any(-1), BROKEN, logits.argmax(-1))

    def answers(self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Columns) -> Heard:
        frames = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        broken = int((frames == BROKEN).any(axis=1).sum())
        if broken:
            raise NonFiniteLoss(f"answers: the predictions of {broken} of {len(frames)} sounds are NaN.")
        blank, space = rows[0][BLANK], rows[0][SPACE]
        said: list[tuple[int, ...]] = [()] * len(rows)
        wanted: list[tuple[int, ...]] = [()] * len(rows)
        for place, heard, labels in zip(order, frames, rows["labels"][:], strict=True):
            said[place], wanted[place] = collapsed(heard, blank), tuple(labels)
        return Heard(said, wanted, space)

    def score(self, split: str, answers: Heard) -> dict[str, float]:
        return {"wer": error_rate(_words(answers)), "cer": error_rate(_characters(answers))}

    def agreement(self, split: str, ours: Heard, teachers: Heard) -> float:
        """The share of sounds that both take for the same."""
        return float(np.mean([a == b for a, b in zip(ours.found, teachers.found, strict=True)]))

    def asked(self, split: str) -> Asked:
        return Asked("sounds", "texts")

    def answered(self, split: str, answers: Heard) -> Answered:
        """Right is the whole text of a sound."""
        both = (answers.found, answers.wanted)
        said, wanted = (np.asarray([" ".join(map(str, text)) for text in texts]) for texts in both)
        return Answered(said, said == wanted)

    def evidence(self, split: str, answers: Heard) -> Evidence:
        """The wrong words of each sound, and its words."""
        return Evidence("errors", _words(answers))


def collapsed(frames: np.ndarray, blank: int) -> tuple[int, ...]:
    """The symbols that frames stand for: of equal neighbours one, without blanks and what fills a row up (-100)."""
    first = np.ones(len(frames), dtype=bool)
    first[1:] = frames[1:] != frames[:-1]
    return tuple(int(symbol) for symbol in frames[first] if symbol not in (blank, IGNORED))


def _words(answers: Heard) -> np.ndarray:
    """`[rows, 2]`, edits and words of each text."""
    pairs = zip(answers.found, answers.wanted, strict=True)
    words = [(split_at(found, answers.space), split_at(wanted, answers.space)) for found, wanted in pairs]
    return np.asarray([(edits(found, wanted), len(wanted)) for found, wanted in words], dtype=np.float64)


def _characters(answers: Heard) -> np.ndarray:
    """`[rows, 2]`, edits and characters of each text, ends of words among them."""
    pairs = zip(answers.found, answers.wanted, strict=True)
    return np.asarray([(edits(found, wanted), len(wanted)) for found, wanted in pairs], dtype=np.float64)


def _told(row: Mapping[str, Any]) -> dict[str, str]:
    """A row with the SHA-256 of its sound."""
    sound = row[SOUND]
    if isinstance(sound, str):
        data = Path(sound).read_bytes()
    else:
        data = np.asarray(sound, dtype="<f8").tobytes() if isinstance(sound, list) else sound["bytes"]
    return {SOUND: hashlib.sha256(data).hexdigest(), SAID: row[SAID]}


def load(data: Data, settings: Settings, recipe: Recipe, *, predict: bool) -> Speech:
    """The sounds of a recipe. Raises: `DataError`, as `load_workload`."""
    name = data_name(data)
    if predict:
        raise DataError(f"{name}: texts of tests are not written by a run; leave --do_predict out.")
    tables = tables_of(data, (settings.audio_column, settings.text_column), labels=())
    found = spoken_texts(tables, settings.audio_column, settings.text_column)
    splits = with_cuts(dict(found.splits), data)
    return Speech(name, replace(found, splits=at_most(splits, recipe)), settings, _revisions(recipe))


def _revisions(recipe: Recipe) -> dict[str, str | None]:
    """The revisions of the models that the recipe names, by their names."""
    teacher = recipe.teacher
    members = [] if teacher is None or teacher.ensemble is None else list(teacher.ensemble.members.values())
    students = [stage.student for stage in recipe.stages if isinstance(stage.student, Student)]
    named = [each for each in (teacher, *members, *students, recipe.student) if each is not None]
    return {each.model: each.revision for each in named if each.model is not None}
