"""Raw text: masked and causal language modelling, and encoders without a head."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from hf_distill.data.masking import (
    Labelling,
    Masking,
    Padding,
    Weights,
    read_counts,
    sampling_weights,
    size_of,
    unmasked,
)
from hf_distill.data.packing import Layout, around, chunks, token_ids
from hf_distill.data.pretraining import PackedRows, PackedStream
from hf_distill.data.streams import First, HubText, Source, TextFiles, interleaved
from hf_distill.data.token_store import stored
from hf_distill.errors import DataError
from hf_distill.evaluation.language_models import NEW_TOKENS, Prompt
from hf_distill.hub.record import DataFacts, SourceFacts
from hf_distill.ranks import agreed
from hf_distill.recipe import Masks, Recipe, TextSource, UnlabelledText
from hf_distill.runs.workload import Collator, Limits, Workload
from hf_distill.runs.workloads.words import WordAnswers
from hf_distill.tasks import CausalLM, Encoder, MaskedLM

logger = logging.getLogger(__name__)

SAMPLE = 50
"""Documents on which two tokenizers must agree, and on which a sentence's time is measured."""

COUNTED = 100_000
"""Documents of a stream whose tokens are counted for smoothed masks, where no counts are given."""

WRITTEN, BEGINNING = 4, 32
"""Documents that the models go on with in the report, and the tokens that they are given of each."""

LARGEST_SHARE = 10
"""At most a tenth of the rows is held out."""

_APART = {"hub": {"revision"}}
_UNTOLD: dict[str, Any] = {"cache_dir": True, "train": {"__all__": _APART}, "validation": {"__all__": _APART}}
"""What the fingerprint leaves out: the commits are in those of the sources."""


class Pretraining(Workload):
    """`name` is that of the first source. Rows are packed when they are read; `validation` is text of its own, or rows
    held out of the training text, and is masked the same way every time.
    """

    def __init__(self, recipe: Recipe, text: UnlabelledText) -> None:
        self.recipe, self.text = recipe, text
        self.train = [_source(each) for each in text.train]
        self.validation = [_source(each) for each in text.validation or ()]
        self.name = self.train[0].name
        self._sources = {
            name: source.identity()
            for split, sources in (("train", self.train), ("validation", self.validation))
            for name, source in _numbered(split, sources)
        }
        self._sizes: dict[str, int] = {}
        self._length: int | None = None

    # ---- the data ----

    @property
    def sources(self) -> Mapping[str, str]:
        return self._sources

    @property
    def commits(self) -> Mapping[str, str]:
        return {key: text.commit for key, text in self._of_hub() if text.revision != text.commit}

    def _of_hub(self) -> Iterator[tuple[str, HubText]]:
        """The text of the Hub, by the recipe's keys of revisions."""
        for split, sources in (("train", self.train), ("validation", self.validation)):
            for number, source in enumerate(map(_whole, sources)):
                if isinstance(source, HubText):
                    yield f"data.text.{split}.{number}.hub.revision", source

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        return ("validation",)

    def facts(self, recipe: Recipe) -> DataFacts:
        named = [*_numbered("train", self.train), *_numbered("validation", self.validation)]
        told = json.dumps([self.text.model_dump(exclude=_UNTOLD), self._sources], sort_keys=True, default=str)
        only = _whole(self.train[0])
        hub: dict[str, Any] = {}
        if len(self.train) == 1 and isinstance(only, HubText):
            hub = {"id": only.id, "config": only.config, "revision": only.commit}
        return DataFacts(
            name=self.name,
            **hub,
            sources={name: SourceFacts(name=source.name, sha256=self._sources[name]) for name, source in named},
            sizes=self._sizes,
            commits={key: text.commit for key, text in self._of_hub()},
            fingerprint=hashlib.sha256(told.encode()).hexdigest(),
        )

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        return islice(self.train[0].documents(), SAMPLE)

    def texts(self) -> list[str]:
        return list(islice((self.validation or self.train)[0].documents(), SAMPLE))

    # ---- reading ----

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """See `hf_distill.data.pretraining`: `PackedRows`, or for a stream's training text a `PackedStream`."""
        self._agree()
        layout = Layout.of(tokenizer, limits.longest(tokenizer), self.text.packing)
        self._length = layout.max_length if self.text.streaming else None
        found = self._streamed(tokenizer, layout) if self.text.streaming else self._stored(tokenizer, layout)
        self._sizes = {name: len(rows) for name, rows in found.items() if isinstance(rows, PackedRows)}
        return {name: rows for name, rows in found.items() if splits is None or name in splits}

    def _agree(self) -> None:
        """All processes read the commits that the first one found, once they have met."""
        self.train, self.validation = agreed(lambda: (self.train, self.validation))

    def _stored(self, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> dict[str, Any]:
        stores = [stored(source, tokenizer, layout, self.text.cache_dir) for source in self.train]
        counts = sum(store.counts for store in stores)
        training, fixed = self._maskings(tokenizer, lambda: np.asarray(counts))
        train = PackedRows(stores, training, weights=_weights(self.text.train))
        if self.validation:
            return {"train": self._at_most("train", train), "validation": self._own(tokenizer, layout, fixed)}
        number = min(self.text.held_out, max(len(train) // LARGEST_SHARE, 1))
        if number < self.text.held_out:
            logger.info("%d rows are held out, a tenth of the text, and not %d.", number, self.text.held_out)
        train, validation = train.held_out(number, fixed)
        return {"train": self._at_most("train", train), "validation": self._at_most("validation", validation)}

    def _streamed(self, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> dict[str, Any]:
        weights = _weights(self.text.train)
        training, fixed = self._maskings(tokenizer, lambda: _counted(self.train, weights, tokenizer))
        stream = PackedStream(
            self.train,
            tokenizer,
            layout,
            training,
            weights=weights,
            shuffle=self.text.shuffle,
            seed=self.recipe.seed,
        )
        return {"train": stream, "validation": self._own(tokenizer, layout, fixed)}

    def _own(self, tokenizer: PreTrainedTokenizerBase, layout: Layout, masking: Labelling | None) -> PackedRows:
        """The validation text that was given."""
        stores = [stored(source, tokenizer, layout, self.text.cache_dir) for source in self.validation]
        return self._at_most("validation", PackedRows(stores, masking))

    def _at_most(self, split: str, rows: PackedRows) -> PackedRows:
        return rows.first(getattr(self.recipe.max_samples, split))

    def _maskings(self, tokenizer: PreTrainedTokenizerBase, counts: Any) -> tuple[Labelling | None, Labelling | None]:
        """How training and evaluation rows are masked and labelled; by default not at all."""
        return None, None

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return Padding(int(tokenizer.pad_token_id), self._length)


class PredictedWords(WordAnswers, Pretraining):
    """Raw text of which words are predicted."""


class MaskedWords(PredictedWords):
    """Masked language modelling: hidden words are predicted."""

    auto_class = MaskedLM.auto_class

    def _maskings(self, tokenizer: PreTrainedTokenizerBase, counts: Any) -> tuple[Masking | None, Masking | None]:
        asked = self.text.masking or Masks()
        shares = {"probability": asked.probability, "masked": asked.masked, "random": asked.random}
        weights: Weights | None = None
        if asked.smoothing is not None:
            size = size_of(tokenizer)
            found = counts() if asked.counts is None else read_counts(asked.counts, size)
            weights = sampling_weights(found, tokenizer.all_special_ids, asked.smoothing)
        common: dict[str, Any] = {
            **shares,
            "seed": self.recipe.seed,
            "weights": weights,
            "whole_word": asked.whole_word,
        }
        return Masking(tokenizer, **common), Masking(tokenizer, evaluation=True, **common)


class NextWords(PredictedWords):
    """Causal language modelling: every word is predicted from those before it, the first one of a row excepted."""

    auto_class = CausalLM.auto_class
    in_words = True

    def tokenizer_settings(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The end of a text stands for padding where there is none, as in GPT-2: neither mask nor labels count it."""
        return {"pad_token": tokenizer.eos_token} if tokenizer.pad_token is None else {}

    def _maskings(self, tokenizer: PreTrainedTokenizerBase, counts: Any) -> tuple[Labelling, Labelling]:
        return unmasked, unmasked

    @staticmethod
    def targets(labels: Any) -> Any:
        return labels[:, 1:]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> list[Prompt]:
        """The beginnings of some validation documents, to go on from, behind what a row begins with."""
        prefix, _ = around(tokenizer)
        found = []
        for text in self.texts()[:WRITTEN]:
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: limits.max_length]
            start = min(BEGINNING, len(ids) // 2)
            if start:
                begun, rest = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start : start + NEW_TOKENS])
                found.append(Prompt([*prefix, *ids[:start]], begun, rest))
        return found


class Headless(Pretraining):
    """Models without a head, whose rows are not masked: what is learned are hidden states and relations. Training is
    judged by its objectives' own value on the validation rows, `eval_loss`.
    """

    auto_class = Encoder.auto_class
    metrics = ("loss",)
    judged_by_objectives = True

    def answers(self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Any) -> None:
        return None

    def score(self, split: str, answers: None) -> dict[str, float]:
        return {}


KINDS: Mapping[str, type[Pretraining]] = {
    MaskedLM.name: MaskedWords,
    CausalLM.name: NextWords,
    Encoder.name: Headless,
}


def load(text: UnlabelledText, recipe: Recipe, *, predict: bool) -> Pretraining:
    """The text of a recipe. Raises: `DataError`, as `load_workload`."""
    return checked(KINDS[text.task](recipe, text), predict=predict)


def checked(found: Pretraining, *, predict: bool) -> Pretraining:
    """The text, of which there is nothing to predict."""
    if predict:
        raise DataError(f"{found.name}: raw text has no test to predict; leave --do_predict out.")
    return found


def _source(given: TextSource) -> Source:
    whole = _whole_source(given)
    return whole if given.documents is None else First(whole, given.documents)


def _whole_source(given: TextSource) -> Source:
    if given.files is not None:
        return TextFiles(tuple(map(Path, given.files)), given.column, given.unit)
    if given.hub is None:
        raise DataError("a source of text names neither files nor a data set of the Hub.")
    return HubText(given.hub.id, given.column, given.hub.config, given.hub.split, given.hub.revision)


def _whole(source: Source) -> Source:
    """What a source is the beginning of, or the source itself."""
    return source.source if isinstance(source, First) else source


def _numbered(split: str, sources: Sequence[Source]) -> list[tuple[str, Source]]:
    """`train`, or with several sources `train 1`, `train 2` …"""
    if len(sources) == 1:
        return [(split, sources[0])]
    return [(f"{split} {i}", source) for i, source in enumerate(sources, start=1)]


def _weights(sources: Iterable[TextSource]) -> list[float] | None:
    given = [source.weight for source in sources if source.weight is not None]
    return given or None


def _counted(sources: Sequence[Source], weights: Sequence[float] | None, tokenizer: PreTrainedTokenizerBase) -> Any:
    """How often each token stands in the first documents of a stream."""
    documents = sources[0].documents() if weights is None else interleaved(sources, weights, seed=0, epoch=0)
    counts = np.zeros(size_of(tokenizer), dtype=np.int64)
    for chunk in chunks(islice(documents, COUNTED)):
        flat = list(chain.from_iterable(token_ids(tokenizer, chunk)))
        counts += np.bincount(np.asarray(flat, dtype=np.int64), minlength=len(counts))
    return counts
