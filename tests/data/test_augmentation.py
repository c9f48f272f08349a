"""TinyBERT's augmentation with a masked LM whose answers are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

from hf_distill.data.augmentation import SAMPLES, augment_tinybert
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.loading import load_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["cat", "dog", "cow", "runs", "sleeps", "eats", "the", "and", ".", "##ing", "sing", "b"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
SETTINGS: dict[str, Any] = {"probability": 1.0, "candidates": 3, "samples": 40}


def bert(**settings: Any) -> BertTokenizer:
    return BertTokenizer(vocab=VOCABULARY, **settings)


def masked_lm(order: str, seed: int = 0, **settings: Any) -> BertForMaskedLM:
    """A masked LM that proposes the words of `order` everywhere, in this order."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        **{"max_position_embeddings": 32} | settings,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.cls.predictions.decoder.weight.zero_()
        model.cls.predictions.bias.zero_()
        for rank, word in enumerate(order.split()):
            model.cls.predictions.bias[VOCABULARY[word]] = 100.0 - rank
    return model


def free_lm(seed: int = 0) -> BertForMaskedLM:
    """A random masked LM, whose proposals depend on the text."""
    model = masked_lm("", seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
    return model


def rows(**columns: list[Any]) -> Dataset:
    features = {name: ClassLabel(names=["no", "yes"]) if name == "label" else Value("string") for name in columns}
    return Dataset.from_dict(columns, features=Features(features))


def variants(model: BertForMaskedLM, text: str, **settings: Any) -> set[str]:
    augmented = augment_tinybert(rows(text=[text]), model, bert(), ["text"], **(SETTINGS | settings))
    assert augmented["text"][0] == text
    rest = augmented["text"][1:]
    assert len(set(rest)) == len(rest)
    return set(rest)


# ---- which words, and what they become ----


def test_words_become_the_most_probable_ones() -> None:
    """Three candidates each: all nine pairs but the text itself are drawn in forty draws."""
    found = variants(masked_lm("cat dog cow runs sleeps"), "the cat runs .")
    pairs = {(a, b) for a in ("cat", "dog", "cow") for b in ("cat", "dog", "cow")}
    assert found == {f"the {a} {b} ." for a, b in pairs}


def test_stop_words_and_signs_stay_and_the_list_is_a_setting() -> None:
    assert variants(masked_lm("dog cow cat"), "the and .") == set()
    assert variants(masked_lm("dog cow cat"), "the and .", stop_words=["the"], candidates=1) == {"the dog ."}
    assert variants(masked_lm("dog cow cat"), "the cat .", stop_words=["the", "cat"]) == set()


def test_pieces_that_continue_a_word_and_special_tokens_are_no_candidates() -> None:
    found = variants(masked_lm("[MASK] [UNK] ##ing dog cow"), "cat .", candidates=2)
    assert found == {"dog ."}  # "##ing" is one of the two most probable pieces, and left out of them


def test_parts_are_what_the_whole_gives() -> None:
    model, whole = free_lm(), rows(text=["the cat runs .", "a dog sleeps", "the cow eats and runs", "cat dog cow"])
    settings = {"samples": 5, "probability": 0.5, "candidates": 4, "batch_size": 2, "seed": 7}
    wanted = augment_tinybert(whole, model, bert(), ["text"], **settings)
    parts = [
        augment_tinybert(whole.select(range(start, start + 2)), model, bert(), ["text"], first_row=start, **settings)
        for start in (0, 2)
    ]
    assert [text for part in parts for text in part["text"]] == list(wanted["text"])
    moved = augment_tinybert(whole.select(range(2, 4)), model, bert(), ["text"], **settings)
    assert list(moved["text"]) != list(parts[1]["text"])
    with pytest.raises(DataError, match="first_row is -1"):
        augment_tinybert(whole, model, bert(), ["text"], first_row=-1, **settings)


def test_a_word_without_candidates_stays() -> None:
    assert variants(masked_lm("##ing dog"), "cat .", candidates=1) == set()
    assert variants(masked_lm("dog"), "singing .", candidates=1) == set()


def test_words_of_several_pieces_take_the_nearest_word_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("singing 1 0\ndancing 1 0.1\nhumming 1 -0.2\ncat 0 1\n", encoding="utf-8")
    found = variants(masked_lm("dog cow"), "cat singing .", candidates=2, word_vectors=path, probability=0.5)
    heads = {f"{a} {b} ." for a in ("cat", "dog", "cow") for b in ("singing", "dancing", "humming")}
    assert found <= heads - {"cat singing ."}
    assert {"dog dancing .", "dog humming .", "cat dancing .", "dog singing ."} - found == set()


def test_the_model_reads_the_masked_text_beside_the_whole() -> None:
    model, seen = masked_lm("dog cow"), []
    model.bert.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    variants(model, "cat sing runs .", candidates=1)
    words = {token: word for word, token in VOCABULARY.items()}
    (inputs,) = seen
    texts = sorted(" ".join(words[i] for i in ids) for ids in inputs["input_ids"].tolist())
    rest = "[SEP] cat sing runs . [SEP]"
    assert texts == [
        f"[CLS] [MASK] sing runs . {rest}",
        f"[CLS] cat [MASK] runs . {rest}",
        f"[CLS] cat sing [MASK] . {rest}",
    ]
    assert inputs["token_type_ids"].tolist() == [[0] * 6 + [1] * 5] * 3


def test_texts_beyond_the_models_length() -> None:
    """Six positions: [CLS], then five words; the sixth word and the second copy are cut."""
    found = variants(masked_lm("dog", max_position_embeddings=6), "cat cat cat cat cat runs", candidates=1)
    assert found == {"dog dog dog dog dog runs"}


def test_unknown_words_are_asked_for_and_special_words_are_plain_text() -> None:
    assert variants(masked_lm("dog"), "zebra .", candidates=1) == {"dog ."}
    assert variants(masked_lm("dog"), "[SEP] .", candidates=1) == {"[ dog ] ."}


def test_a_text_in_capitals_is_no_variant_of_itself() -> None:
    augmented = augment_tinybert(rows(text=["Cat ."]), masked_lm("cat"), bert(), ["text"], candidates=1)
    assert augmented["text"][:] == ["Cat ."]


# ---- how they are drawn ----


def test_each_word_is_replaced_with_the_probability() -> None:
    texts = ["cat"] * 2000
    augmented = augment_tinybert(rows(text=texts), masked_lm("dog"), bert(), ["text"], samples=1, candidates=1)
    share = augmented["text"][:].count("dog") / len(texts)
    assert abs(share - 0.4) < 4 * (0.4 * 0.6 / len(texts)) ** 0.5
    assert len(augmented) == len(texts) + augmented["text"][:].count("dog")


def test_what_is_drawn_depends_on_seed_and_row_alone() -> None:
    texts = [
        f"{a} {b} {c} ." for a in ("cat", "dog", "cow") for b in ("runs", "eats") for c in ("sing", "singing cow")
    ]
    model = free_lm()

    def augmented(dataset: Dataset, **settings: Any) -> list[str]:
        made = augment_tinybert(dataset, model, bert(), ["text"], candidates=5, samples=5, **settings)
        return list(made["text"])

    whole = augmented(rows(text=texts))
    assert augmented(rows(text=texts), batch_size=5) == whole
    assert whole[: len(augmented(rows(text=texts[:4])))] == augmented(rows(text=texts[:4]))
    assert augmented(rows(text=texts), seed=1) != whole
    state = torch.get_rng_state()
    assert augmented(rows(text=texts)) == whole
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_is_left_as_it_was() -> None:
    for training in (True, False):
        model = free_lm().train(training)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        variants(model, "cat sing .")
        assert model.training is training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


# ---- rows ----


def test_other_columns_come_with_every_variant() -> None:
    dataset = rows(text=["cat .", "the .", "runs ."], label=[1, 0, 1], id=["a", "b", "c"])
    augmented = augment_tinybert(dataset, masked_lm("dog cow"), bert(), ["text"], **SETTINGS | {"candidates": 2})
    assert augmented.features == dataset.features
    found = sorted(zip(augmented["id"], augmented["label"], augmented["text"], strict=True))
    assert found == sorted(
        [("a", 1, text) for text in ("cat .", "dog .", "cow .")]
        + [("b", 0, "the .")]
        + [("c", 1, text) for text in ("runs .", "dog .", "cow .")]
    )
    assert len(dataset) == 3


def test_one_text_of_a_pair_is_varied_at_a_time() -> None:
    dataset = rows(first=["cat ."], second=["sing ."])
    settings = {**SETTINGS, "candidates": 1}
    for mix, first in ((False, "cat ."), (True, "dog .")):
        made = augment_tinybert(dataset, masked_lm("dog"), bert(), ["first", "second"], mix_columns=mix, **settings)
        assert list(zip(made["first"], made["second"], strict=True)) == [
            ("cat .", "sing ."),
            ("dog .", "sing ."),
            (first, "dog ."),
        ]


def test_columns_that_are_not_named_stay() -> None:
    dataset = rows(first=["cat ."], second=["cat ."])
    made = augment_tinybert(dataset, masked_lm("dog"), bert(), ["second"], **{**SETTINGS, "candidates": 1})
    assert made["first"][:] == ["cat .", "cat ."]
    assert made["second"][:] == ["cat .", "dog ."]


def test_nothing_to_augment() -> None:
    empty = augment_tinybert(rows(text=["cat"]).select([]), masked_lm("dog"), bert(), ["text"])
    assert len(empty) == 0
    assert augment_tinybert(rows(text=[""]), masked_lm("dog"), bert(), ["text"])["text"][:] == [""]


def test_draws_of_the_tasks() -> None:
    assert SAMPLES == {
        "cola": 30, "mrpc": 30, "stsb": 30, "rte": 30, "sst2": 20, "qnli": 20, "mnli": 10, "qqp": 10,
    }  # fmt: skip


# ---- refusals ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "samples is 0; it must be a whole number, 1 or more"),
        ({"candidates": 2.5}, "candidates is 2.5"),
        ({"seed": -1}, "seed is -1; it must be a whole number, 0 or more"),
        ({"batch_size": True}, "batch_size is True"),
        ({"probability": 0.0}, "probability is 0.0; it must be a number above 0"),
        ({"probability": float("nan")}, "probability is nan"),
        ({"text_columns": "text"}, "text columns 'text'; give a list"),
        ({"text_columns": ["test"]}, "no column 'test'; did you mean 'text'"),
        ({"word_vectors": "nowhere.txt"}, "nowhere.txt: no such file"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], words: str) -> None:
    columns = settings.pop("text_columns", ["text"])
    with pytest.raises(DataError, match=re.escape(words)):
        augment_tinybert(rows(text=["cat"]), masked_lm("dog"), bert(), columns, **settings)


def test_a_cell_that_is_no_text() -> None:
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\), column 'text': holds .*, expected text"):
        augment_tinybert(rows(text=["cat", None]), masked_lm("dog"), bert(), ["text"])


def test_a_model_without_a_masked_lm_head(tmp_path: Path) -> None:
    config = masked_lm("dog").config
    classifier = AutoModelForSequenceClassification.from_config(config)
    for model in (classifier, BertModel(config)):
        with pytest.raises(DistillationError, match=r"no masked-LM head.*loaded as AutoModelForMaskedLM"):
            augment_tinybert(rows(text=["cat"]), model, bert(), ["text"])
    classifier.save_pretrained(tmp_path)
    with pytest.raises(IncompatiblePair, match=r"no weights for .*as AutoModelForMaskedLM they are random"):
        load_model(str(tmp_path), "AutoModelForMaskedLM", role="augmenting model")


def test_tokenizers_that_do_not_fit() -> None:
    plain = Tokenizer(WordLevel({"cat": 0, "[UNK]": 1, "[MASK]": 2}, unk_token="[UNK]"))
    plain.pre_tokenizer = WhitespaceSplit()
    whole_words = PreTrainedTokenizerFast(tokenizer_object=plain, mask_token="[MASK]", unk_token="[UNK]")
    large = BertTokenizer(vocab={**VOCABULARY, "extra": len(VOCABULARY)})
    maskless = bert()
    maskless.mask_token = None
    for tokenizer, words in (
        (whole_words, "does not mark the pieces that continue a word.*WordPiece"),
        (large, "the tokenizer has 18 tokens, the model 17"),
        (maskless, "has no mask_token; take the tokenizer of a masked LM"),
    ):
        with pytest.raises(IncompatiblePair, match=words):
            augment_tinybert(rows(text=["cat"]), masked_lm("dog"), tokenizer, ["text"])


def test_a_vocabulary_padded_beyond_the_tokenizer_proposes_nothing_there() -> None:
    model = AutoModelForMaskedLM.from_config(masked_lm("dog").config)
    model.resize_token_embeddings(len(VOCABULARY) + 3, mean_resizing=False)
    with torch.no_grad():
        model.cls.predictions.decoder.weight.zero_()
        model.cls.predictions.bias.copy_(torch.arange(len(VOCABULARY) + 3.0))
    assert variants(model.eval(), "cat .", candidates=1) == {"b ."}
