"""Sounds with the text that is said in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_distill.data.files import Table, check_text, commit_of, sums
from hf_distill.data.hypotheses import padded_hypotheses
from hf_distill.data.sounds import located, samples_of
from hf_distill.errors import DataError
from hf_distill.objectives.hypotheses import TEXTS
from hf_distill.tasks import IGNORED

SOUND, SAID, PLACE = "sound", "text", "place"
BLANK, SPACE = "blank", "space"
"""Columns of what models read, the same in every row: the symbols for nothing, and for the end of a word."""

SPECIAL = ("<pad>", "<unk>", "|")
"""What a vocabulary of characters begins with: the blank, what is unknown, and the end of a word."""


@dataclass(frozen=True)
class SpokenTexts:
    """The splits, checked: `sound` as `sounds.located` gives it, `text`, and `place`, where the sound stands.
    `sources` maps each split to the SHA-256 of what it was read from; `commit` is that of a data set of the Hub."""

    splits: DatasetDict
    sources: Mapping[str, str]
    commit: str | None = None


def spoken_texts(tables: Mapping[str, Table], audio_column: str, text_column: str) -> SpokenTexts:
    """Checks the rows of the splits; paths of sounds are those from the folder of the split's file on.

    Errors: DataError, with file, line and column, for a cell that is no sound or no text, and for an empty text.
    """
    splits = {}
    for name, table in tables.items():
        check_text(table, text_column)
        texts = table.columns[text_column]
        empty = next((row for row, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise DataError(f"{table.place(empty, text_column)}: is empty; there is nothing to hear.")
        places = [table.place(row, audio_column) for row in range(len(table))]
        cells = zip(table.columns[audio_column], places, strict=True)
        sounds = [located(cell, place, table.path.parent) for cell, place in cells]
        kinds = {type(sound): row for row, sound in reversed(list(enumerate(sounds)))}
        if len(kinds) > 1:
            raise DataError(
                f"{places[max(kinds.values())]}: is another kind of sound than in the rows before; a file has paths "
                "or lists of samples."
            )
        splits[name] = Dataset.from_dict(
            {SOUND: sounds, SAID: [" ".join(text.split()) for text in texts], PLACE: places}
        )
    return SpokenTexts(DatasetDict(splits), sums(tables), commit_of(tables))


def hear(
    rows: Dataset,
    extractor: Any,
    tokenizer: PreTrainedTokenizerBase,
    sampling_rate: int | None = None,
    shortest: int = 1,
) -> Dataset:
    """What a model reads of each row: what `extractor`, a feature extractor of transformers, makes of the sound, under
    its own name (`input_values` or `input_features`), `labels`, the symbols of the text, `length`, that of the former,
    and the columns `blank` and `space`. `sampling_rate` is that of sounds that are lists, by default the extractor's.

    All rows are held in memory: 230 MB an hour at 16,000 samples a second, and as a table grows by doubling, up to
    twice that. Sounds are arrays.

    Errors: DataError naming the row for a sound that cannot be read, for one shorter than `shortest`, of which the
    models make no frame, or whose values are not finite, and for a character without a symbol.
    """
    name, rate = input_name(extractor), int(extractor.sampling_rate)
    same = {BLANK: tokenizer.pad_token_id, SPACE: _end_of_words(tokenizer)}

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sounds = zip(batch[SOUND], batch[PLACE], strict=True)
        samples = [samples_of(sound, place, rate, sampling_rate or rate) for sound, place in sounds]
        heard = [extractor(each, sampling_rate=rate)[name][0] for each in samples]
        _check_heard(heard, batch[PLACE], shortest)
        texts = zip(batch[SAID], batch[PLACE], strict=True)
        labels = [_symbols(tokenizer, text, place) for text, place in texts]
        columns = {key: [value] * len(heard) for key, value in same.items()}
        return {name: heard, "labels": labels, "length": [len(each) for each in heard], **columns}

    made = rows.map(read, batched=True, batch_size=32, remove_columns=rows.column_names, desc="hearing")
    return sounds_as_arrays(made, name)


def sounds_as_arrays(rows: Dataset, name: str) -> Dataset:
    """The rows with the sounds of this column as arrays, which come and are padded several times faster than lists."""
    return rows.with_format("numpy", columns=[name], output_all_columns=True)


def _check_heard(heard: Sequence[Any], places: Sequence[str], shortest: int) -> None:
    """Feature extractors that bring features to variance 1 make NaN of a single frame."""
    for each, place in zip(heard, places, strict=True):
        if not np.isfinite(each).all():
            raise DataError(
                f"{place}: the feature extractor makes of the sound values that are not finite, as of one that is too "
                "short; leave the row out."
            )
        if len(each) < shortest:
            raise DataError(
                f"{place}: a sound of {len(each)} values as the models hear it, and they make a frame of {shortest}; "
                "leave the row out."
            )


def input_name(extractor: Any) -> str:
    """What a model calls what this feature extractor makes of a sound."""
    return str(extractor.model_input_names[0])


def _end_of_words(tokenizer: PreTrainedTokenizerBase) -> int:
    """The symbol for the end of a word, -1 where the vocabulary has none.

    Raises: `DataError` for a tokenizer whose symbols are no characters.
    """
    if not hasattr(tokenizer, "word_delimiter_token"):
        raise DataError(
            f"the tokenizer is a {type(tokenizer).__name__}, and the symbols of CTC are characters here, with one for "
            "the end of a word; save a Wav2Vec2CTCTokenizer beside the model."
        )
    mark: Any = tokenizer.word_delimiter_token
    found = tokenizer.get_vocab().get(mark)
    return -1 if found is None else int(found)


def _symbols(tokenizer: PreTrainedTokenizerBase, text: str, place: str) -> list[int]:
    found: list[int] = tokenizer(text)["input_ids"]
    if tokenizer.unk_token_id in found:
        unknown = [char for char in dict.fromkeys(text) if tokenizer.unk_token_id in tokenizer(char)["input_ids"]]
        raise DataError(
            f"{place}: the tokenizer has no symbol for {unknown[:5]} in {text[:60]!r}; write the texts in its "
            "symbols, whose capitals may be all there are."
        )
    return found


def characters(texts: Iterable[str]) -> dict[str, int]:
    """A vocabulary for `Wav2Vec2CTCTokenizer`, to be written as its `vocab.json`: the blank `<pad>`, which is 0,
    `<unk>`, `|` for the end of a word, and the characters of the texts in their order."""
    found = sorted(set("".join(texts)) - {" ", "|"})
    return {symbol: i for i, symbol in enumerate((*SPECIAL, *found))}


class SpeechCollator:
    """Batches of what `hear` gave: sounds padded by the feature extractor, which gives an `attention_mask` where its
    models take one, `labels` padded by -100, and, where the rows have them, a teacher's hypotheses."""

    def __init__(self, extractor: Any) -> None:
        self.extractor, self.name = extractor, input_name(extractor)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        padded = self.extractor.pad([{self.name: item[self.name]} for item in items], return_tensors="pt")
        batch: dict[str, Tensor] = dict(padded)
        if "labels" in items[0]:
            batch["labels"] = _padded([item["labels"] for item in items])
        return {**batch, **(padded_hypotheses(items) if TEXTS in items[0] else {})}


def _padded(labels: Sequence[Sequence[int]]) -> Tensor:
    found = torch.full((len(labels), max(1, *map(len, labels), 1)), IGNORED)
    for i, each in enumerate(labels):
        found[i, : len(each)] = torch.tensor(each, dtype=torch.long)
    return found
