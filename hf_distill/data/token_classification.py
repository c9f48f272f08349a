"""Lists of tokens with a tag for each: names of persons, parts of speech."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase

from hf_distill.data.files import Table, choices, commit_of, describe, sums
from hf_distill.data.labels import check_names
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggedTokens:
    """The splits, checked: `tokens`, and, unless a split is unlabelled, `tags`, the ids of `tag_names`. `sources` maps
    each split to the SHA-256 of what it was read from; `commit` is that of a data set of the Hub.
    """

    splits: DatasetDict
    tag_names: tuple[str, ...]
    sources: Mapping[str, str]
    commit: str | None = None


def tagged_tokens(
    tables: Mapping[str, Table], tokens_column: str, tags_column: str, tag_names: Sequence[str] | None = None
) -> TaggedTokens:
    """Checks the rows of the splits; those without a token are left out, and counted in the log.

    Tags are the names themselves or, with `tag_names`, their positions as well. Without `tag_names` they are the
    classes of the column in a data set of the Hub, in its order, else the tags of `train` in alphabetical order. A
    test that lacks the column, or has nothing in it, is unlabelled.

    Errors: DataError, with file, line and column, for what is no list, lists of different lengths, a token or tag that
    is no text, a tag that is unknown or out of range, and numbers without `tag_names`.
    """
    if tag_names is not None:
        check_names(tag_names)
    known = tables["train"].class_names.get(tags_column) if tag_names is None else tuple(tag_names)
    names = known or _names(tables["train"], tags_column)
    ids: dict[Any, int] = {key: i for i, name in enumerate(names) for key in (i, name)}
    splits = {name: _split(table, tokens_column, tags_column, names, ids) for name, table in tables.items()}
    return TaggedTokens(DatasetDict(splits), names, sums(tables), commit_of(tables))


def _names(table: Table, column: str) -> tuple[str, ...]:
    found: set[str] = set()
    for row, cell in enumerate(table.columns[column]):
        for tag in _list(cell, table, row, column):
            if isinstance(tag, int) and not isinstance(tag, bool):
                raise DataError(
                    f"{table.place(row, column)}: the tag is the number {tag}, and tags have names, such as B-PER: "
                    "give --class_names (tag_names in a recipe), in the order of the numbers."
                )
            found.add(_text(tag, table, row, column))
    if "" in found:
        raise DataError(f"{table.path}: column {column!r} holds an empty tag; write O where there is nothing to tag.")
    return tuple(sorted(found))


def _split(
    table: Table, tokens_column: str, tags_column: str, names: Sequence[str], ids: Mapping[Any, int]
) -> Dataset:
    cells = table.columns.get(tags_column, [None] * len(table))
    is_labelled = not all(cell is None for cell in cells)
    columns: dict[str, list[list[Any]]] = {"tokens": [], **({"tags": []} if is_labelled else {})}
    for row, cell in enumerate(table.columns[tokens_column]):
        tokens = [_text(token, table, row, tokens_column) for token in _list(cell, table, row, tokens_column)]
        values: dict[str, list[Any]] = {"tokens": tokens}
        if is_labelled:
            tags = _list(cells[row], table, row, tags_column)
            if len(tags) != len(tokens):
                place = table.place(row, tags_column)
                raise DataError(f"{place}: {len(tags)} tags for {len(tokens)} tokens; give each token one tag.")
            values["tags"] = [_id(tag, ids, names, table, row, tags_column) for tag in tags]
        if tokens:
            for name, value in values.items():
                columns[name].append(value)
    empty = len(table) - len(columns["tokens"])
    if empty == len(table):
        raise DataError(f"{table.path}: none of the {len(table)} rows has a token.")
    if empty:
        logger.warning("%s: %d of %d rows have no token, and are left out.", table.path, empty, len(table))
    features = {"tokens": List(Value("string")), "tags": List(ClassLabel(names=list(names)))}
    return Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))


def _list(cell: Any, table: Table, row: int, column: str) -> list[Any]:
    if not isinstance(cell, list):
        raise DataError(f"{table.place(row, column)}: holds {describe(cell)}, expected a list with one entry a token.")
    return cell


def _text(value: Any, table: Table, row: int, column: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{table.place(row, column)}: holds {describe(value)} in its list, expected text.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{table.place(row, column)}: {error}; replace that character.") from error
    return value


def _id(tag: Any, ids: Mapping[Any, int], names: Sequence[str], table: Table, row: int, column: str) -> int:
    if not isinstance(tag, str | int) or isinstance(tag, bool):
        raise DataError(f"{table.place(row, column)}: the tag is {describe(tag)}; write a name or a number.")
    if tag not in ids:
        expected = f"the numbers go from 0 to {len(names) - 1}" if isinstance(tag, int) else choices(tag, names)
        raise DataError(f"{table.place(row, column)}: unknown tag {describe(tag)}; {expected}.")
    return ids[tag]


def tokenize_words(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tag_names: Sequence[str],
    *,
    max_length: int,
    label_all_tokens: bool = False,
    input_names: Collection[str] = (),
) -> Dataset:
    """Token ids of lists of tokens: the tokenizer's columns with `special_tokens_mask`, `length`, `word_starts`, and
    `labels` where there are `tags`.

    A token may become several word pieces. The first one is labelled with its tag, the others with -100 or, with
    `label_all_tokens`, with its tag as well, `I-` in place of `B-` where there is such a tag. `word_starts[w]` is the
    position of the first piece of token w, -1 where it has none: cut off, or nothing that the tokenizer keeps.

    Errors: DataError for a tokenizer that cannot say which token a piece belongs to, or would read tokens without the
    blank between them, and for a `max_length` that leaves no room.
    """
    _check_tokenizer(tokenizer, max_length)
    inside = _inside(tag_names)
    options: dict[str, Any] = {"truncation": True, "max_length": max_length, "return_special_tokens_mask": True}
    if "token_type_ids" in input_names:
        options["return_token_type_ids"] = True

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(batch["tokens"], is_split_into_words=True, **options)
        found: dict[str, Any] = {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "word_starts": []}
        words = [encoded.word_ids(row) for row in range(len(batch["tokens"]))]
        for row, of_row in enumerate(words):
            starts = [-1] * len(batch["tokens"][row])
            for position, word in reversed(list(enumerate(of_row))):
                if word is not None:
                    starts[word] = position
            found["word_starts"].append(starts)
        if "tags" in batch:
            pairs = zip(words, batch["tags"], found["word_starts"], strict=True)
            found["labels"] = [_labels(*pair, inside if label_all_tokens else None) for pair in pairs]
        return found

    encoded = dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="Tokenising")
    lost = sum(start < 0 for starts in encoded["word_starts"][:] for start in starts)
    if lost:
        logger.warning(
            "%d tokens are cut off at %d word pieces, or have none; they are not labelled.", lost, max_length
        )
    return encoded


def _labels(
    words: Sequence[int | None], tags: Sequence[int], starts: Sequence[int], inside: Sequence[int] | None
) -> list[int]:
    """The label of each piece; `inside[tag]` is that of a later piece of a token, None for -100."""
    labels = []
    for position, word in enumerate(words):
        if word is None:
            labels.append(IGNORED)
        elif starts[word] == position:
            labels.append(tags[word])
        else:
            labels.append(IGNORED if inside is None else inside[tags[word]])
    return labels


def _inside(tag_names: Sequence[str]) -> list[int]:
    """For each tag the one of a later piece of its token: `I-PER` for `B-PER`, itself for others."""
    positions = {name: i for i, name in enumerate(tag_names)}
    return [positions.get(f"I-{name[2:]}", i) if name.startswith("B-") else i for i, name in enumerate(tag_names)]


def joins_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a list of tokens is read as if no blank stood between them, as by RoBERTa and GPT-2 unless they are
    loaded with `add_prefix_space`."""
    joined: list[int] = tokenizer(["a", "a"], is_split_into_words=True)["input_ids"]
    apart: list[int] = tokenizer("a a")["input_ids"]
    return joined != apart


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise DataError(
            f"tokenize: {name} does not say which token a word piece belongs to; take a fast tokenizer (a folder with "
            "tokenizer.json)."
        )
    if joins_tokens(tokenizer):
        raise DataError(
            f"tokenize: {name} reads a list of tokens as if no blank stood between them. Load it once with "
            "AutoTokenizer.from_pretrained(..., add_prefix_space=True), and save it beside the model."
        )
    if max_length <= tokenizer.num_special_tokens_to_add():
        raise DataError(f"tokenize: {max_length} tokens leave no room beside the special ones; raise max_length.")
