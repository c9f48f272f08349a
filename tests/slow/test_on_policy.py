"""What of on-policy training takes longer: runs that are gone on with, and models with an encoder and a decoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_distill import DistillationTrainer, OnPolicy
from tests.on_policy import test_sampling as sampling
from tests.on_policy import test_training as training
from tests.on_policy.worlds import rows, small

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_that_is_gone_on_with_ends_bit_for_bit(tmp_path: Path, accumulation: int) -> None:
    """Within an epoch and behind one; the student has dropout."""

    def made(folder: str) -> DistillationTrainer:
        return training.trainer_of(
            model=small("causal_lm", dropout=0.3),
            on_policy=OnPolicy(student_share=0.6, teacher_share=0.2, max_new_tokens=training.LENGTH),
            train_dataset=rows("causal_lm", 12),
            arguments={
                "output_dir": str(tmp_path / folder), "max_steps": 7, "save_strategy": "steps", "save_steps": 2,
                "gradient_accumulation_steps": accumulation, "train_sampling_strategy": "random",
                "optim": "adamw_torch",
            },
        )  # fmt: skip

    whole = made("whole")
    whole.train()
    for step in (2, 4):
        again = made(f"again-{step}")
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert training.gaps(whole, again) == [0.0]


@pytest.mark.parametrize("family", ["gemma2", "seq2seq_lm", "bart"])
def test_texts_of_further_families_are_those_of_a_loop(family: str) -> None:
    sampling.texts_are_those_of_a_loop(family)


def test_an_encoder_decoder_learns_and_writes_as_a_decoder_does() -> None:
    training.value_and_gradient_are_those_of_a_loop("seq2seq_lm", 0.5)
    training.batches_change_nothing("seq2seq_lm")
    sampling.rows_at_once_change_nothing("seq2seq_lm")
    sampling.checkpointed_layers_write_the_same("seq2seq_lm")
