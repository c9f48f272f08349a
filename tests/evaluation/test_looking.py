"""Layers and attention of two models on the same sentences, against other ways to see them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hf_distill import students
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.evaluation import looking
from hf_distill.evaluation.similarity import layer_cka, layer_similarity
from tests import tiny_models, tiny_runs

TEXTS = [tiny_runs.sentence(row)[0] for row in range(12)]


@pytest.fixture(scope="module")
def pair():
    teacher = tiny_models.tiny("bert", layers=4, seed=1)
    teacher.set_attn_implementation("sdpa")
    return students.from_layers(teacher, layers=[1, 3]), teacher


def test_cka_by_products_of_tokens_is_that_of_layers() -> None:
    one, other = tiny_models.tiny("bert", seed=1), tiny_models.tiny("bert", layers=2, seed=2)
    batches = [tiny_models.batch("bert")]
    found, tokens = layer_cka(one, other, batches)
    expected = layer_similarity(one, other, batches)
    np.testing.assert_allclose(found, expected.cka, atol=1e-9)
    assert tokens == expected.rows
    assert layer_cka(one, other, batches, most=7)[1] == 7
    with pytest.raises(DataError, match="0 tokens"):
        layer_cka(one, other, [])


def test_layers_of_a_copy_are_alike(pair) -> None:
    student, teacher = pair
    found = looking.likeness(student, teacher, tiny_runs.tokenizer(), TEXTS, 16)
    assert (len(found.cka), len(found.cka[0])) == (3, 5)
    assert found.cka[0][0] == found.cka[1][1] == 1.0
    assert found.tokens == sum(len(tiny_runs.tokenizer()(text)["input_ids"]) for text in TEXTS)


def test_many_texts_are_read_until_there_are_tokens_enough(pair, monkeypatch) -> None:
    monkeypatch.setattr(looking, "MOST_TOKENS", 20)
    assert looking.likeness(*pair, tiny_runs.tokenizer(), TEXTS * 20, 16).tokens == 20


def test_attention_is_the_mean_over_the_heads_of_the_plain_attention(pair) -> None:
    student, teacher = pair
    teacher.train()
    found = looking.attention(student, teacher, tiny_runs.tokenizer(), TEXTS, [(1, 2), (2, 4)])
    assert teacher.training
    row = next(ids for ids in (tiny_runs.tokenizer()(text)["input_ids"] for text in TEXTS) if 6 <= len(ids) <= 16)
    assert found.tokens == tiny_runs.tokenizer().convert_ids_to_tokens(row)
    plain = copy.deepcopy(teacher).eval()
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        expected = plain(torch.tensor([row]), output_attentions=True).attentions[3][0].mean(0)
    assert [(each.student_layer, each.teacher_layer) for each in found.pairs] == [(1, 2), (2, 4)]
    np.testing.assert_allclose(found.pairs[1].teacher, expected.numpy(), atol=6e-4)
    np.testing.assert_allclose(np.sum(found.pairs[0].student, axis=1), 1.0, atol=0.02)


def test_models_get_their_attention_back(pair) -> None:
    before = [model.config._attn_implementation for model in pair]
    looking.attention(*pair, tiny_runs.tokenizer(), TEXTS, [(1, 1)])
    assert [model.config._attn_implementation for model in pair] == before
    assert before[1] == "sdpa"


def test_of_many_pairs_three_are_shown(pair) -> None:
    pairs = [(s, t) for s in (1, 2) for t in range(1, 5)]
    found = looking.attention(*pair, tiny_runs.tokenizer(), TEXTS, [(0, 0), *pairs])
    assert [(each.student_layer, each.teacher_layer) for each in found.pairs] == [(1, 1), (2, 1), (2, 4)]


def test_a_long_text_is_cut_and_pairs_of_texts_are_read(pair) -> None:
    long = [(" ".join(TEXTS), " ".join(TEXTS))] * 2
    assert len(looking.attention(*pair, tiny_runs.tokenizer(), long, [(1, 1)]).tokens) == 16


def test_what_is_not_shown_is_refused(pair) -> None:
    tokenizer = tiny_runs.tokenizer()
    with pytest.raises(IncompatiblePair, match="no pair of layers to show of 2 and 4"):
        looking.attention(*pair, tokenizer, TEXTS, [(0, 0), (3, 5)])
    with pytest.raises(DataError, match="no texts"):
        looking.attention(*pair, tokenizer, [], [(1, 1)])
    with pytest.raises(IncompatiblePair, match="'t5' has no single stack"):
        looking.attention(tiny_models.tiny("t5"), pair[1], tokenizer, TEXTS, [(1, 1)])
    blind = copy.deepcopy(pair[1])
    blind.forward = lambda input_ids, attention_mask=None, **options: {}
    with pytest.raises(IncompatiblePair, match="does not tell where its heads look"):
        looking.attention(pair[0], blind, tokenizer, TEXTS, [(1, 1)])
