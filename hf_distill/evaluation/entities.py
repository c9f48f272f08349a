"""Precision, recall and F1 of whole entities, without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import datasets
import evaluate

from hf_distill.evaluation.local import LocalMetric

CITATION = """@inproceedings{ramshaw1995chunking,
  title = {Text Chunking using Transformation-Based Learning},
  author = {Ramshaw, Lance and Marcus, Mitch},
  booktitle = {Third Workshop on Very Large Corpora},
  year = {1995}
}"""


_NO_KIND = "_"


class Entity(NamedTuple):
    """What is named, and the tokens from `first` to `last`, that one included, counted from 0."""

    kind: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sentence, read as leniently as the evaluation of the CoNLL tasks does.

    A tag is `O`, or a letter, a hyphen and a kind. `B` and `S` begin an entity; so do `I` and `E` after `O`, `E` or
    `S`, and any tag of another kind than the one before. `E` and `S` end theirs. A tag of another letter goes on with
    the kind before it, or begins its own.
    """
    found: list[Entity] = []
    letter, kind, first = "O", _NO_KIND, 0
    for place, tag in enumerate([*tags, "O"]):
        before, kind_before = letter, kind
        letter, rest = tag[:1], tag[1:]
        kind = (rest.partition("-")[2] if "-" in rest else rest) or _NO_KIND
        changes = kind != kind_before
        if before != "O" and (before in "ES" or (before in "BI" and letter in "BSO") or changes):
            found.append(Entity(kind_before, first, place - 1))
        if letter != "O" and (letter in "BS" or (before in "OES" and letter in "IE") or changes):
            first = place
    return found


class Counts(NamedTuple):
    """Entities that were found and are there, were found, and are there."""

    right: int
    found: int
    there: int

    @property
    def precision(self) -> float:
        """0.0 where nothing was found."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """0.0 where nothing is there."""
        return self.right / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both, 0.0 where both are."""
        return 2 * self.right / (self.found + self.there) if self.right else 0.0


def counts(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Counts]:
    """The counts of one sentence by kind. An entity is right if its kind, first and last token are."""
    ours, theirs = set(entities(predictions)), set(entities(references))
    of = [Counter(entity.kind for entity in group) for group in (ours & theirs, ours, theirs)]
    return {kind: Counts(*(counter[kind] for counter in of)) for kind in sorted({*of[1], *of[2]})}


class EntityMetric(LocalMetric):
    """The metric "seqeval" of the library evaluate with its default settings, same names and values.

    Predictions and references are lists of tags, one a sentence. `overall_precision`, `overall_recall` and
    `overall_f1` are of entities of all kinds taken together, `overall_accuracy` is of tokens; each kind has a mapping
    of `precision`, `recall`, `f1` and `number`, the entities that are there. What has no value, such as the precision
    of nothing, is 0.0.
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Precision, recall and F1 of entities.",
            citation=CITATION,
            inputs_description="predictions and references: lists of tags such as B-PER, I-PER and O.",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        by_kind: dict[str, list[Counts]] = {}
        right = total = 0
        for ours, theirs in zip(predictions, references, strict=True):
            for kind, found in counts(ours, theirs).items():
                by_kind.setdefault(kind, []).append(found)
            right += sum(a == b for a, b in zip(ours, theirs, strict=True))
            total += len(theirs)
        sums = {kind: summed(group) for kind, group in sorted(by_kind.items())}
        overall = summed(list(sums.values()))
        kinds = {
            kind: {"precision": each.precision, "recall": each.recall, "f1": each.f1, "number": each.there}
            for kind, each in sums.items()
        }
        return {
            **kinds,
            "overall_precision": overall.precision,
            "overall_recall": overall.recall,
            "overall_f1": overall.f1,
            "overall_accuracy": right / total if total else 0.0,
        }


def summed(group: Sequence[Counts]) -> Counts:
    """The counts taken together."""
    return Counts(*(sum(column) for column in zip(*group, strict=True))) if group else Counts(0, 0, 0)
