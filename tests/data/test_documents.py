"""Several documents in one row: where each goes, and that each is read as if it stood alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DataCollatorWithFlattening,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from hf_distill import DistillationTrainer, FitNetsHint, HiddenMSE, Labels, PairwiseKD, SoftTargets, students
from hf_distill.data.documents import PaddedRows, best_fit, packed
from hf_distill.distillation import Counts
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives import Terms
from hf_distill.tasks import IGNORED
from tests import chats, tiny

SMALL: dict[str, Any] = {"vocab_size": chats.SIZE, "bos_token_id": 1, "eos_token_id": 2}


def gpt2() -> PreTrainedModel:
    rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **rates, **SMALL))


def qwen3() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen3ForCausalLM(Qwen3Config(intermediate_size=24, head_dim=8, **sizes, **SMALL))


MODELS = {"llama": chats.model, "gpt2": gpt2, "qwen3": qwen3}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_every_document_is_in_one_row_and_rows_are_few(lengths: list[int]) -> None:
    rows = best_fit(lengths, 12)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert max(used) <= 12
    assert all(used[i] + used[j] > 12 for i in range(len(rows)) for j in range(i))


def test_a_document_goes_into_the_fullest_row_that_has_room() -> None:
    assert best_fit([6, 9, 3, 7, 1], 10) == [[1, 4], [3, 2], [0]]
    assert best_fit([12, 2, 2], 10) == [[0], [1, 2]]


def rows(seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in (9, 4, 13, 6, 1, 7):
        ids = torch.randint(3, chats.SIZE, (length,), generator=generator).tolist()
        labels = [IGNORED if i < 2 else token for i, token in enumerate(ids)]
        found.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * length, "length": length})
    return found


def test_packed_rows_start_their_positions_anew_and_say_which_document_a_token_is_of() -> None:
    made = packed(Dataset.from_list(rows()), 16)
    assert made["length"][:] == [13 + 1, 9 + 7, 6 + 4]
    batch = PaddedRows(0)([made[i] for i in (0, 2)])
    assert {name: tuple(each.shape) for name, each in batch.items()} == dict.fromkeys(batch, (2, 14))
    for tokens, row in enumerate((made[0], made[2])):
        places = row["position_ids"]
        documents, number = [], 0
        for place in places:
            number += place == 0
            documents.append(number)
        assert batch["document_ids"][tokens].tolist() == documents + [0] * (14 - len(documents))
        assert all(label == IGNORED for label, place in zip(row["labels"], places, strict=True) if place == 0)
    assert batch["attention_mask"].tolist() == (batch["document_ids"] > 0).long().tolist()


def test_packed_rows_lie_on_the_disk_and_are_made_once_for_each_length() -> None:
    whole, again, wider = (packed(Dataset.from_list(rows()), size) for size in (16, 16, 40))
    assert whole.cache_files
    assert whole.cache_files == again.cache_files != wider.cache_files
    assert wider["length"][:] == [9 + 4 + 13 + 6 + 1 + 7]
    assert packed(Dataset.from_list(rows(1)), 16)["input_ids"][:] != whole["input_ids"][:]


def test_every_token_of_more_rows_than_are_read_at_once_is_in_a_packed_row() -> None:
    numbers = [(i, i % 5 + 1) for i in range(2500)]
    many = [{"input_ids": [i] * length, "labels": [i] * length, "length": length} for i, length in numbers]
    made = packed(Dataset.from_list(many), 8)
    tokens = Counter(token for row in made["input_ids"] for token in row)
    assert tokens == {i: i % 5 + 1 for i in range(2500)}
    labels = Counter(label for row in made["labels"] for label in row if label != IGNORED)
    assert labels == {i: i % 5 for i in range(2500) if i % 5}


def losses(trainer: DistillationTrainer, batches: list[dict[str, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """The sums of all terms over some batches, and the gradient of their total."""
    assert trainer.teacher is not None
    distillation = trainer.distillation.train()
    distillation.zero_grad()
    values: Any = 0.0
    for batch in batches:
        found = distillation(batch, trainer.teacher.activations(batch), Counts((1.0,) * len(distillation.terms())))
        found.total.backward()
        values = values + found.values
    return values, [gradient.clone() for gradient in distillation.gradients()]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_is_its_documents_each_alone(family: str, attention: str) -> None:
    torch.manual_seed(0)
    teacher = MODELS[family]().double()
    teacher.set_attn_implementation(attention)
    student = students.from_layers(teacher, layers=1).double()
    terms = SoftTargets(kind="jsd") + Labels() + HiddenMSE(layer_map="final")
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=terms,
        args=tiny.arguments(),
        train_dataset=Dataset.from_list(rows()),
    )
    one_by_one = [PaddedRows(0)([row]) for row in rows()]
    made = packed(Dataset.from_list(rows()), 16)
    together = PaddedRows(0)([made[i] for i in range(len(made))])
    expected, gradients = losses(trainer, one_by_one)
    found, packed_gradients = losses(trainer, [together])
    tolerance = 1e-9 if attention == "sdpa" else 1e-6  # the eager one has its softmax in float32
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(packed_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(word_embed_proj_dim=16, max_position_embeddings=64, **sizes, **SMALL))


def roberta() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return RobertaForCausalLM(RobertaConfig(is_decoder=True, **sizes, **SMALL))


def bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=2, n_head=2, **SMALL))


@pytest.mark.parametrize(
    ("family", "told"),
    [(opt, "looks across the documents"), (roberta, "looks across the documents"), (bloom, "takes no position_ids")],
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_model_that_looks_across_packed_documents_is_refused(
    family: Callable[[], PreTrainedModel], told: str, role: str
) -> None:
    """Without a word each document would be read behind those before it."""
    torch.manual_seed(0)
    other = family()
    models = {"model": other, "teacher": chats.model()} if role == "student" else {"model": gpt2(), "teacher": other}

    def trained(dataset: Dataset) -> None:
        given = {"args": tiny.arguments(max_steps=1), "data_collator": PaddedRows(0), "train_dataset": dataset}
        DistillationTrainer(objectives=SoftTargets() + Labels(), **models, **given).train()

    with pytest.raises(IncompatiblePair, match=rf"^the {role}, a {type(other).__name__}, {told}.*Do not pack"):
        trained(packed(Dataset.from_list(rows()), 16))
    trained(Dataset.from_list(rows()))


def test_a_term_that_joins_packed_documents_is_refused_by_its_name() -> None:
    """It would relate the tokens of one document to those of another, without a word."""

    def trained(terms: Terms, dataset: Dataset) -> None:
        torch.manual_seed(0)
        given = {"args": tiny.arguments(max_steps=1), "data_collator": PaddedRows(0), "train_dataset": dataset}
        DistillationTrainer(model=chats.model(), teacher=chats.model(), objectives=terms, **given).train()

    together = packed(Dataset.from_list(rows()), 16)
    told = (
        r"^objective 'pairs' relates the tokens of a row to each other, and the rows of a training batch hold several "
        r"documents.*Do not pack \(data.chat.packing: false\)"
    )
    with pytest.raises(IncompatiblePair, match=told):
        trained(SoftTargets() + (1.0 * PairwiseKD()).named("pairs"), together)
    trained(SoftTargets() + (1.0 * PairwiseKD()).named("pairs"), Dataset.from_list(rows()))
    trained(SoftTargets() + FitNetsHint(), together)


def trained_on(terms: Terms, collator: Any, model: Callable[[], PreTrainedModel] = chats.model) -> list[float]:
    """The losses of two steps over rows that `collator` pads, or joins."""
    torch.manual_seed(0)
    told = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "remove_unused_columns": False}
    models = {"model": model(), "teacher": chats.model(seed=1)}
    given = {"data_collator": collator, "train_dataset": Dataset.from_list(rows())}
    trainer = DistillationTrainer(objectives=terms, args=tiny.arguments(**told), **models, **given)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_rows_that_a_collator_joins_are_documents_as_well() -> None:
    """They were related to each other, without a word."""
    joining, told = DataCollatorWithFlattening(), r"join the rows of a batch \(DataCollatorWithFlattening"
    with pytest.raises(IncompatiblePair, match=rf"^objective 'pairwise_kd' .*{told}"):
        trained_on(SoftTargets() + PairwiseKD(), joining)
    with pytest.raises(IncompatiblePair, match=rf"^the student, a RobertaForCausalLM, looks across .*{told}"):
        trained_on(SoftTargets() + Labels(), joining, roberta)


def test_rows_that_a_collator_joins_are_counted_as_texts() -> None:
    """`fitnets_hint` counts texts; all documents of a batch were one."""
    apart, joined = (trained_on(1.0 * FitNetsHint(), each) for each in (PaddedRows(0), DataCollatorWithFlattening()))
    assert min(apart) > 0.1
    assert joined == pytest.approx(apart, rel=1e-5)
