"""What is refused before the first step, each by one readable error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_distill import (
    CacheMismatch,
    DataError,
    DistillationError,
    IncompatiblePair,
    Labels,
    NBestKD,
    OnPolicy,
    SoftTargets,
    teachers,
)
from hf_distill.data.aligned_rows import AlignedPadding
from hf_distill.objectives import ULD
from tests import tiny
from tests.on_policy.test_training import trainer_of
from tests.on_policy.worlds import rows, small
from tests.tiny_models import tiny as of_family

OFF = OnPolicy(student_share=0.5, max_new_tokens=6)


def test_a_student_that_does_not_write() -> None:
    both = {"model": tiny.model("masked_lm"), "teacher": tiny.model("masked_lm", seed=3)}
    with pytest.raises(IncompatiblePair, match="a BertForMaskedLM, whose task is masked_lm; those that write are"):
        trainer_of(**both, train_dataset=tiny.rows("masked_lm"), objectives=SoftTargets())


def test_a_teacher_that_is_read_from_a_cache(tmp_path: Path) -> None:
    trainer = trainer_of(on_policy=None)
    trainer.cache_teacher(tmp_path / "cache")
    cached = teachers.Cached(tmp_path / "cache")
    with pytest.raises(CacheMismatch, match="the teacher is read from a cache, which knows the texts of the data"):
        trainer_of(teacher=cached)
    live = teachers.Frozen(small("causal_lm", seed=5))
    with pytest.raises(CacheMismatch, match="the teacher 'old' is read from a cache"):
        trainer_of(teacher=teachers.Ensemble({"new": live, "old": cached}))
    with pytest.raises(DistillationError, match="a cache knows the texts of the data alone"):
        trainer_of().cache_teacher(tmp_path / "another")


def test_a_teacher_that_does_not_write() -> None:
    policy = OnPolicy(student_share=0.5, teacher_share=0.25)
    several = teachers.Ensemble({"a": small("causal_lm", seed=5), "b": small("causal_lm", seed=6)})
    with pytest.raises(IncompatiblePair, match=r"teacher_share is 0\.25, and the teacher, a Ensemble, does not write"):
        trainer_of(teacher=several, on_policy=policy)
    trainer_of(teacher=several, on_policy=OFF)


def test_a_teacher_of_another_tokenizer() -> None:
    from tests.test_across_tokenizers import OURS, ROWS, THEIRS, model

    with pytest.raises(IncompatiblePair, match="texts are aligned between the two before training"):
        trainer_of(
            model=model(OURS, 1),
            teacher=teachers.Frozen(model(THEIRS, 2, positions=96), tokenizer=THEIRS),
            objectives=ULD(),
            train_dataset=ROWS,
            data_collator=AlignedPadding(OURS, THEIRS),
            processing_class=OURS,
            on_policy=OnPolicy(max_new_tokens=4, prompt_tokens=3),
        )


def test_terms_that_know_nothing_of_new_texts() -> None:
    with pytest.raises(DistillationError, match="no term compares the student with a teacher"):
        trainer_of(objectives=Labels())
    with pytest.raises(IncompatiblePair, match="'nbest_kd' weighs texts that the teacher wrote before"):
        trainer_of(objectives=SoftTargets() + NBestKD())


def test_labels_that_are_the_students_own_words_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_distill"):
        trainer_of(objectives=SoftTargets() + Labels())
    assert (
        "'labels' learns labels, and in the share 1 of the steps (on_policy) these are words that the" in caplog.text
    )


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"labels": lambda row: row["input_ids"]}, "has no prompt: its first token has a label"),
        ({"position_ids": lambda row: list(range(len(row["input_ids"])))}, "Leave packing out"),
    ],
)
def test_rows_without_a_prompt(changed: Any, found: str) -> None:
    made = [{**row, **{name: make(row) for name, make in changed.items()}} for row in rows("causal_lm")]
    with pytest.raises(DataError, match=found):
        trainer_of(train_dataset=made)
    with pytest.raises(DataError, match=found):
        trainer_of(train_dataset=Dataset.from_list(made))


def test_plain_text_has_prompts_of_so_many_tokens() -> None:
    made = [{**row, "labels": row["input_ids"]} for row in rows("causal_lm")]
    trainer = trainer_of(train_dataset=made, on_policy=OnPolicy(student_share=1.0, prompt_tokens=3, max_new_tokens=4))
    trainer.train()
    assert trainer.state.log_history[0]["on_policy/texts"] == 4


@pytest.mark.parametrize("task", ["causal_lm", "seq2seq_lm"])
def test_a_prompt_that_is_too_long_for_a_model(task: str) -> None:
    family, longest = ("llama", 35) if task == "causal_lm" else ("bart", 39)
    both = {"model": of_family(family, layers=1), "teacher": of_family(family, layers=2), "train_dataset": rows(task)}
    expected = rf"has \d+ tokens and max_new_tokens is {longest + 1}, and the student \({family}\) reads 40 at most"
    with pytest.raises(DataError, match=expected):
        trainer_of(**both, on_policy=OnPolicy(max_new_tokens=longest + 1))
    trainer_of(**both, on_policy=OnPolicy(max_new_tokens=longest))


@pytest.mark.parametrize("place", [0, 77, 148])
def test_one_prompt_among_many_that_is_too_long(place: int) -> None:
    both = {"model": of_family("llama", layers=1), "teacher": of_family("llama", layers=2)}
    short, long = (
        {"input_ids": [5] * 9, "attention_mask": [1] * 9, "labels": [-100] * n + [5] * (9 - n)} for n in (3, 8)
    )
    many = Dataset.from_list([short] * place + [long] + [short] * (149 - place))
    assert trainer_of(**both, train_dataset=many, on_policy=OnPolicy(max_new_tokens=32)).on_policy is not None
    with pytest.raises(DataError, match="a prompt has 8 tokens and max_new_tokens is 33, and the student"):
        trainer_of(**both, train_dataset=many, on_policy=OnPolicy(max_new_tokens=33))


def test_texts_that_nothing_ends(caplog: pytest.LogCaptureFixture) -> None:
    def silent(**tokens: Any) -> Any:
        model = small("causal_lm")
        for config in (model.config, model.generation_config):
            config.eos_token_id = tokens.get("end")
            config.pad_token_id = tokens.get("pad")
        return model

    with pytest.raises(DistillationError, match="tells which token ends a text or pads one"):
        trainer_of(model=silent())
    with caplog.at_level(logging.WARNING, "hf_distill"):
        trainer_of(model=silent(pad=0))
    assert "no token ends a text" in caplog.text
    assert trainer_of(model=silent(end=[4, 2]))._sampling.ends == (4, 2)


def test_tokens_that_end_texts_are_named() -> None:
    from tests.tiny_runs import tokenizer

    found = trainer_of(
        processing_class=tokenizer(), on_policy=OnPolicy(max_new_tokens=6, end_tokens=("[SEP]", "film"))
    )
    own = tokenizer().get_vocab()
    told = tokenizer()
    told.eos_token = "[SEP]"  # the end of a turn, where the model knows that of a text alone
    assert trainer_of(processing_class=told)._sampling.ends == (2, own["[SEP]"])
    assert found._sampling.ends == (2, own["[SEP]"], own["film"])
    wanted = r"end_tokens has '\[SEPP\]', which is no token of the tokenizer .*; did you mean '\[SEP\]'\?\)\. All are"
    with pytest.raises(DistillationError, match=wanted) as refused:
        trainer_of(processing_class=tokenizer(), on_policy=OnPolicy(max_new_tokens=6, end_tokens=("[SEPP]",)))
    assert "'[PAD]'" in str(refused.value)
    with pytest.raises(DistillationError, match="no tokenizer is given"):
        trainer_of(on_policy=OnPolicy(max_new_tokens=6, end_tokens=("<end>",)))
