"""Rows that are prompts and nothing else, which tell how many tokens they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset

from hf_distill import DataError, Labels, OnPolicy, SoftTargets
from hf_distill.tasks import PROMPT_TOKENS
from tests.on_policy.test_training import LENGTH, gaps, trained, trainer_of
from tests.on_policy.worlds import drawn_for, prompt_of, rows, small, text_of

POLICY = OnPolicy(student_share=0.5, teacher_share=0.5, max_new_tokens=LENGTH)


def alone(behind: Sequence[int] = (), labeled: bool = False) -> list[dict[str, Any]]:
    """The prompts of `rows`, with what stands behind each, and labels there or none."""
    found = []
    for row in rows("causal_lm", 16):
        prompt = prompt_of(row)
        ids = [*prompt, *behind]
        labels = [-100] * len(prompt) + [token if labeled else -100 for token in behind]
        found.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)})
        found[-1] |= {} if labeled else {PROMPT_TOKENS: len(prompt)}
    return found


def test_they_train_as_rows_with_any_answer_do() -> None:
    settings: dict[str, Any] = {
        "on_policy": POLICY,
        "arguments": {"max_steps": 4},
        "objectives": SoftTargets(kind="jsd", temperature=1.0) + 0.5 * Labels(),
    }
    given = [alone(), alone([5]), alone([7, 9]), alone([5], labeled=True), alone([8, 6], labeled=True)]
    whole = rows("causal_lm", 16)
    found = [trained(train_dataset=Dataset.from_list(each), **settings) for each in (*given, whole)]
    assert gaps(*found) == [0.0] * 5
    assert gaps(found[0], trained(train_dataset=whole, **{**settings, "on_policy": None}))[0] > 1e-5


def test_what_is_compared_is_what_was_written_and_nothing_else() -> None:
    trainer = trainer_of(train_dataset=Dataset.from_list(alone()))
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    drawn, student = drawn_for(trainer.args.seed, 0, range(4), LENGTH), small("causal_lm")
    prompts = [row["input_ids"] for row in alone()[:4]]
    texts = [text_of(student, prompt, drawn[i]) for i, prompt in enumerate(prompts)]
    real = batches[0]["attention_mask"].bool()
    read = [ids[mask].tolist() for ids, mask in zip(batches[0]["input_ids"], real, strict=True)]
    assert read == [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
    assert [row[row != -100].tolist() for row in batches[0]["labels"]] == texts
    assert PROMPT_TOKENS not in batches[0]


def test_rows_without_label_or_number_do_not_count() -> None:
    """As before: what is not told to be a prompt, and has no label, is no answer that is asked for."""
    bare = [{name: value for name, value in row.items() if name != PROMPT_TOKENS} for row in alone()]
    trainer = trainer_of(train_dataset=Dataset.from_list(bare))
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    assert bool((batches[0]["labels"] == -100).all())


def test_a_prompt_of_no_tokens_is_refused() -> None:
    with pytest.raises(DataError, match="has no prompt: the column prompt_tokens says 0"):
        trainer_of(train_dataset=Dataset.from_list([{**row, PROMPT_TOKENS: 0} for row in alone()]))
