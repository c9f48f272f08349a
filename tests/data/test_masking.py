"""Which tokens are hidden: how many, how often each, and that nothing but seed, epoch and example decides."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_distill.data.masking import Masking, Padding, read_counts, sampling_weights, word_beginnings
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED
from tests import tiny_runs

GOLDEN = Path(__file__).parents[1] / "golden" / "families.json"
TOKENIZER = tiny_runs.tokenizer()
SPECIAL = set(TOKENIZER.all_special_ids)
MASK = TOKENIZER.mask_token_id
SIZE = len(TOKENIZER)
ORDINARY = [i for i in range(SIZE) if i not in SPECIAL]


def row(length: int) -> np.ndarray:
    """[CLS], ordinary tokens in turn, [SEP]."""
    body = [ORDINARY[i % len(ORDINARY)] for i in range(length - 2)]
    return np.array([TOKENIZER.cls_token_id, *body, TOKENIZER.sep_token_id])


# ---- how many, and which ----


@pytest.mark.parametrize("length", [3, 7, 20, 21, 128])
def test_a_row_has_its_share_hidden_whatever_the_draw(length: int) -> None:
    ids = row(length)
    masking = Masking(TOKENIZER)
    for example in range(50):
        hidden, labels = masking(ids, 0, example)
        chosen = labels != IGNORED
        assert chosen.sum() == math.ceil(0.15 * length)
        assert np.array_equal(labels[chosen], ids[chosen])
        assert np.array_equal(hidden[~chosen], ids[~chosen])
        assert not chosen[0]
        assert not chosen[-1]


def test_special_tokens_are_never_hidden_even_where_nothing_else_is_left() -> None:
    ids = np.array([TOKENIZER.cls_token_id, TOKENIZER.unk_token_id, ORDINARY[0], TOKENIZER.sep_token_id])
    for masking in (Masking(TOKENIZER, probability=1.0), Masking(TOKENIZER, probability=1.0, whole_word=True)):
        assert masking(ids, 0, 0)[1].tolist() == [IGNORED, IGNORED, ORDINARY[0], IGNORED]
        assert masking(ids[[0, 1, 3]], 0, 0)[1].tolist() == [IGNORED] * 3


def test_every_position_is_hidden_equally_often_and_shares_are_80_10_10() -> None:
    ids, draws = row(42), 4000
    masking = Masking(TOKENIZER)
    times = np.zeros(len(ids))
    fates = np.zeros(3)
    replaced = np.zeros(SIZE)
    for example in range(draws):
        hidden, labels = masking(ids, 3, example)
        chosen = labels != IGNORED
        times += chosen
        swapped = chosen & (hidden != MASK) & (hidden != ids)
        fates += [(chosen & (hidden == MASK)).sum(), swapped.sum(), (chosen & (hidden == ids)).sum()]
        np.add.at(replaced, hidden[swapped], 1)
    share = 7 / 40  # ceil(0.15 * 42) of 40 ordinary tokens
    assert np.abs(times[1:-1] / draws - share).max() < 5 * math.sqrt(share * (1 - share) / draws)
    total = fates.sum()
    # a random token is the old one in 1 of SIZE cases, and the mask token in another
    expected = np.array([0.8 + 0.1 / SIZE, 0.1 * (1 - 2 / SIZE), 0.1 + 0.1 / SIZE])
    assert np.abs(fates / total - expected).max() < 5 * math.sqrt(0.25 / total)
    assert (replaced[[i for i in range(SIZE) if i != MASK]] > 0).all()


def test_weighted_draws_are_those_without_replacement() -> None:
    """Two of four tokens: P(i, j) = w_i/W w_j/(W - w_i), summed over both orders."""
    weights = np.zeros(SIZE)
    tokens, own = ORDINARY[:4], np.array([1.0, 2.0, 3.0, 6.0])
    weights[tokens] = own
    masking = Masking(TOKENIZER, probability=0.5, weights=weights)
    draws = 20_000
    found: dict[tuple[int, ...], int] = {}
    for example in range(draws):
        labels = masking(np.array(tokens), 0, example)[1]
        pair = tuple(np.flatnonzero(labels != IGNORED).tolist())
        found[pair] = found.get(pair, 0) + 1
    total = own.sum()
    expected: dict[tuple[int, ...], float] = {}
    for i, j in permutations(range(4), 2):
        pair = (min(i, j), max(i, j))
        expected[pair] = expected.get(pair, 0.0) + own[i] / total * own[j] / (total - own[i])
    assert found.keys() == expected.keys()
    for pair, probability in expected.items():
        assert abs(found[pair] / draws - probability) < 5 * math.sqrt(probability * (1 - probability) / draws)


# ---- smoothing ----


def test_golden_weights() -> None:
    case = next(c for c in json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"] if c["id"] == "f-mlm-weights")
    settings = case["settings"]
    found = sampling_weights(np.array(case["inputs"]["counts"]), settings["special_ids"], settings["smoothing"])
    assert found.tolist() == pytest.approx(case["expected"]["values"], abs=1e-12)


def test_no_smoothing_draws_all_alike() -> None:
    assert sampling_weights(np.array([5, 0, 7]), [0], 0.0).tolist() == [0.0, 1.0, 1.0]
    with pytest.raises(DataError, match="neither is below 0"):
        sampling_weights(np.array([1]), [], -0.1)
    with pytest.raises(DataError, match="least count -1"):
        sampling_weights(np.array([-1]), [])


def test_counts_are_read_from_a_list(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text("[3, 0, 12]")
    assert read_counts(path, 3).tolist() == [3, 0, 12]
    for text, held in (
        ("[1, 2]", "a list of 2"), ("[1, 2, -3]", "a list of 3"), ("[1, 2, 3.0]", "a list of 3"),
        ("[1, 2, true]", "a list of 3"), ('{"a": 1}', "dict"), ("[[[", "cannot be read"), ("[" * 10**5, "be read"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=held):
            read_counts(path, 3)
    with pytest.raises(DataError, match="No such file"):
        read_counts(tmp_path / "none.json", 3)


# ---- whole words ----


def pieces() -> PreTrainedTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "in", "a", "##t"]
    model = models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **names)


def test_whole_words_are_hidden_whole() -> None:
    tokenizer = pieces()
    words = ["[CLS] play ##ing ##s", "in", "a ##t", "[SEP] play ##s", "a", "in ##s ##t [SEP]"]
    tokens = " ".join(words).split()
    ids = np.array(tokenizer.convert_tokens_to_ids(tokens))
    groups = [[1, 2, 3], [4], [5, 6], [8, 9], [10], [11, 12, 13]]
    masking = Masking(tokenizer, probability=0.3, whole_word=True)
    seen = set()
    for example in range(400):
        chosen = set(np.flatnonzero(masking(ids, 0, example)[1] != IGNORED).tolist())
        whole = [group for group in groups if chosen & set(group)]
        assert chosen == {place for group in whole for place in group}
        assert 1 <= len(chosen) <= math.ceil(0.3 * len(ids)) == 5
        # passed over are only words that would not have fitted any more
        assert all(len(chosen) + len(group) > 5 for group in groups if group not in whole)
        seen |= {tuple(group) for group in whole}
    assert seen == {tuple(group) for group in groups}


def test_word_beginnings_of_the_kinds_of_tokenizers() -> None:
    tokenizer = pieces()
    begins = word_beginnings(tokenizer)
    later = {tokenizer.convert_tokens_to_ids(token) for token in ("##ing", "##s", "##t")}
    assert {i for i in range(len(tokenizer)) if not begins[i]} == later
    for mark in "Ġ▁":
        byte_level = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE({f"{mark}a": 0, "b": 1, f"{mark}c": 2, "[M]": 3}, [])),
            mask_token="[M]",
        )
        assert word_beginnings(byte_level).tolist() == [True, False, True, False]
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "[M]": 1}, [])), mask_token="[M]")
    with pytest.raises(DataError, match="marks neither the beginnings"):
        Masking(plain, whole_word=True)


# ---- what the draw depends on ----


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_draw_depends_on_seed_epoch_and_example_alone(whole_word: bool) -> None:
    ids = row(60)

    def drawn(seed: int = 0, epoch: int = 0, example: int = 0, **more: Any) -> list[int]:
        np.random.seed(example % 97 + epoch)
        torch.manual_seed(epoch)
        hidden, labels = Masking(TOKENIZER, seed=seed, whole_word=whole_word, **more)(ids, epoch, example)
        return [*hidden.tolist(), *labels.tolist()]

    others = [drawn(1), drawn(0, 1), drawn(0, 0, 1), drawn(0, 0, 2**40), drawn(evaluation=True)]
    assert drawn() == drawn()
    assert all(other != drawn() for other in others)
    assert drawn(0, 1, 0) != drawn(0, 0, 1)
    masking = Masking(TOKENIZER, whole_word=whole_word)
    masking(ids, 5, 9)
    assert [*masking(ids, 0, 0)[0].tolist(), *masking(ids, 0, 0)[1].tolist()] == drawn()


def test_the_draw_is_what_it_was() -> None:
    """Stored masks: another draw would change runs that are gone on with."""
    hidden, labels = Masking(TOKENIZER, seed=7)(row(16), 2, 11)
    assert np.flatnonzero(labels != IGNORED).tolist() == STORED_PLACES
    assert hidden[STORED_PLACES].tolist() == STORED_TOKENS


STORED_PLACES = [2, 9, 12]
STORED_TOKENS = [MASK, MASK, MASK]


# ---- refusals ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 0.0}, "probability is 0.0"),
        ({"probability": 1.1}, "probability is 1.1"),
        ({"probability": float("nan")}, "probability is nan"),
        ({"masked": 0.8, "random": 0.3}, "masked 0.8 and random 0.3"),
        ({"masked": -0.1}, "masked -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"weights": np.ones(3)}, rf"shape \(3,\) for a vocabulary of {SIZE}"),
        ({"weights": np.full(SIZE, np.nan)}, "finite and not below 0"),
        ({"weights": np.full(SIZE, -1.0)}, "finite and not below 0"),
        ({"weights": np.ones(SIZE), "whole_word": True}, "choose one of them"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Masking(TOKENIZER, **settings)


def test_a_tokenizer_without_a_mask_token() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(DataError, match="has no mask token"):
        Masking(plain)


# ---- batches ----


def test_rows_are_padded_on_the_right() -> None:
    rows = [
        {"input_ids": np.array([1, 2, 3]), "labels": np.array([IGNORED, 5, IGNORED])},
        {"input_ids": np.array([4]), "labels": np.array([IGNORED])},
    ]
    batch = Padding(9)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 5, IGNORED], [IGNORED] * 3]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert Padding(9, 5)(rows)["input_ids"].shape == (2, 5)
    assert Padding(9)([{"input_ids": np.array([1])}]).keys() == {"input_ids", "attention_mask"}
