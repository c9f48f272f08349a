"""Training with a teacher that reads tokens of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hf_distill import DistillationTrainer, checks
from hf_distill.data.aligned_rows import AlignedPadding, align_texts
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import GOLD, ULD, HiddenMSE, Labels, SoftTargets
from hf_distill.teachers import Ensemble, Frozen
from tests.tiny import arguments, distance
from tests.tokenizers_of_kinds import CORPUS, tokenizer

OURS, THEIRS = tokenizer("wordpiece"), tokenizer("bpe")
ROWS = align_texts([*CORPUS[:3], "the dog"], OURS, THEIRS, 48).rows


def model(tokens: Any, seed: int, positions: int = 64, hidden: int = 16) -> PreTrainedModel:
    torch.manual_seed(seed)
    settings = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens) + 3,
            hidden_size=hidden,
            max_position_embeddings=positions,
            pad_token_id=tokens.pad_token_id,
            bos_token_id=None,
            eos_token_id=None,
            initializer_range=0.2,
            **settings,
        )
    )


def trainer(
    objectives: Any, collator: Any = None, rows: Dataset = ROWS, tokens: Any = (OURS, THEIRS), **settings: Any
) -> DistillationTrainer:
    ours, theirs = tokens
    return DistillationTrainer(
        model(ours, seed=1),
        arguments(**settings),
        teacher=Frozen(model(theirs, seed=2, positions=96, hidden=24), tokenizer=theirs),
        objectives=objectives,
        train_dataset=rows,
        data_collator=collator or AlignedPadding(ours, theirs),
        processing_class=ours,
    )


@pytest.mark.parametrize(
    "objectives", [ULD(), GOLD(match="text"), ULD(pairs="spans", reduction="span_mean")], ids=["uld", "gold", "spans"]
)
def test_the_student_comes_nearer_to_its_teacher(objectives: Any) -> None:
    made = trainer(objectives, learning_rate=0.02, max_steps=8, optim="adamw_torch", per_device_train_batch_size=4)
    before = {name: each.clone() for name, each in made.teacher.model.state_dict().items()}
    made.train()
    name = made.distillation.columns[0]
    values = [entry[name] for entry in made.state.log_history if name in entry]
    assert values[-1] < 0.95 * values[0]
    assert f"{name.removeprefix('objective/')}/unaligned" in made.distillation.columns
    assert all(torch.equal(each, before[name]) for name, each in made.teacher.model.state_dict().items())


class Wider(AlignedPadding):
    """More padding, and of another amount on each side."""

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        fills = {**self.fills, "attention_mask": 0, "teacher_attention_mask": 0}
        return {
            name: torch.nn.functional.pad(each, (0, 7 if name.startswith("teacher") else 3), value=fills[name])
            for name, each in batch.items()
        }


def doubled(made: DistillationTrainer) -> DistillationTrainer:
    """In float64: where two sorted probabilities are equal up to rounding, rounding chooses the sign of a gradient."""
    for part in (made.model, made.teacher.model):
        part.double()
    return made


@pytest.mark.parametrize("objectives", [1.5 * ULD() + Labels(), GOLD(match="text") + Labels()], ids=["uld", "gold"])
def test_padding_and_accumulation_change_nothing(objectives: Any) -> None:
    whole = doubled(trainer(objectives, max_steps=2, per_device_train_batch_size=4))
    whole.train()
    for settings in (
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"collator": Wider(OURS, THEIRS), "per_device_train_batch_size": 4},
    ):
        other = doubled(trainer(objectives, max_steps=2, **settings))
        other.train()
        assert distance(whole.model, other.model) < 1e-9, settings


def test_objectives_that_compare_token_by_token_are_refused_by_name() -> None:
    for objective in (SoftTargets(), HiddenMSE(projection="per_layer")):
        with pytest.raises(IncompatiblePair, match=f"objective '{objective.name}' compares .* take uld or gold"):
            trainer(objective)


def test_models_of_one_tokenizer_are_refused() -> None:
    with pytest.raises(IncompatiblePair, match=r"objective 'uld' .*Frozen\(model, tokenizer="):
        DistillationTrainer(
            model(OURS, 1), arguments(), teacher=model(OURS, 2), objectives=ULD(), processing_class=OURS
        )


def test_another_vocabulary_that_was_not_asked_for_is_refused_with_the_setting(tmp_path: Any) -> None:
    remedy = r"Frozen\(model, tokenizer=.*tokenizer: own"
    with pytest.raises(IncompatiblePair, match=remedy):
        DistillationTrainer(model(THEIRS, 1), arguments(), teacher=model(OURS, 2), processing_class=THEIRS)
    for part in (model(THEIRS, 2), THEIRS):
        part.save_pretrained(tmp_path)
    with pytest.raises(IncompatiblePair, match=remedy):
        DistillationTrainer(model(OURS, 1), arguments(), teacher=str(tmp_path), processing_class=OURS)


def test_rows_without_the_teachers_tokens_are_refused() -> None:
    plain = ROWS.select_columns(["input_ids", "labels"])
    with pytest.raises(DataError, match=r"reads the column 'teacher_\w+', and the batch has only .*on-policy"):
        trainer(ULD(), rows=plain).train()


def test_tokens_that_the_teacher_does_not_have_are_refused() -> None:
    broken = ROWS.map(lambda row: {"teacher_input_ids": [999, *row["teacher_input_ids"][1:]]})
    with pytest.raises(DataError, match=r"row 1 of a batch has the token 999, and the teacher has embeddings for 0"):
        trainer(ULD(), rows=broken).train()


def test_a_teacher_that_reads_more_than_it_can_is_refused() -> None:
    pair = trainer(ULD()).distillation.pair
    short = replace(pair, teacher=replace(pair.teacher, max_length=8))
    checks.fits_positions(short, 40, 8)
    with pytest.raises(DataError, match=r"a row has 9 tokens, and the teacher .* reads 8 at most"):
        checks.fits_positions(short, 40, 9)


def test_what_does_not_go_across_is_refused_by_name(tmp_path: Any) -> None:
    made = trainer(ULD())
    with pytest.raises(DistillationError, match="reads by its own tokenizer, and a cache"):
        made.cache_teacher(tmp_path)
    with pytest.raises(DistillationError, match="member 'teacher_1' of an ensemble reads by its own"):
        Ensemble([made.teacher])
    with pytest.raises(IncompatiblePair, match="processing_class"):
        DistillationTrainer(model(OURS, 1), arguments(), teacher=made.teacher, objectives=ULD())
