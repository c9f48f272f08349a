"""Training on texts that are written on the way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments

from hf_distill import DistillationTrainer, OnPolicy, SoftTargets
from tests import tiny
from tests.on_policy.worlds import drawn_for, prompt_of, rows, small, text_of

LENGTH = 6


def trainer_of(task: str = "causal_lm", **given: Any) -> DistillationTrainer:
    arguments = {"per_device_train_batch_size": 4, "max_steps": 1, **given.pop("arguments", {})}
    return DistillationTrainer(
        **{
            "model": small(task),
            "teacher": small(task, layers=2, hidden=48, seed=2),
            "objectives": SoftTargets(kind="jsd", temperature=1.0),
            "args": tiny.arguments(**arguments),
            "train_dataset": rows(task, 16),
            "data_collator": tiny.Pad(),
            "on_policy": OnPolicy(student_share=1.0, max_new_tokens=LENGTH),
            **given,
        }
    )


SPLIT = (("decoder", "causal_lm"), ("encoder-decoder", "seq2seq_lm"))
"""The runs that are compared over ranks, by name, and their tasks."""


LAST_WINDOWS = {20: "one batch", 22: "one batch and a half"}
"""Numbers of rows, and what of them the last window of an epoch has over two processes."""


def on_ranks(task: str, number: int, **arguments: Any) -> DistillationTrainer:
    """Trained over an epoch and a half, in windows of two batches of four rows over all processes."""
    arguments |= {"max_steps": 4, "gradient_accumulation_steps": 2}
    policy = OnPolicy(student_share=0.7, teacher_share=0.1, max_new_tokens=LENGTH)
    return trained(task, arguments=arguments, on_policy=policy, train_dataset=rows(task, number))


def trained(*args: Any, **given: Any) -> DistillationTrainer:
    trainer = trainer_of(*args, **given)
    trainer.train()
    return trainer


def gaps(*trainers: DistillationTrainer) -> list[float]:
    return [tiny.distance(trainers[0].model, other.model) for other in trainers[1:]]


def by_hand(
    student: PreTrainedModel, teacher: PreTrainedModel, texts: list[tuple[list[int], list[int]]], beta: float
) -> Tensor:
    """The mean over all tokens written of beta KL(p || m) + (1 - beta) KL(q || m)."""
    values = []
    for prompt, text in texts:
        if student.config.is_encoder_decoder:
            start = student.config.decoder_start_token_id
            read = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *text[:-1]]])}
            own, other = (model(**read).logits[0] for model in (student, teacher))
        else:
            ids = torch.tensor([[*prompt, *text]])
            behind = slice(len(prompt) - 1, len(prompt) + len(text) - 1)
            own, other = (model(input_ids=ids).logits[0, behind] for model in (student, teacher))
        q, p = torch.softmax(own, -1), torch.softmax(other, -1).detach()
        m = beta * p + (1 - beta) * q
        values += [beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)]
    return torch.cat(values).mean()


@pytest.mark.parametrize("beta", [0.5, 0.1])
def test_value_and_gradient_are_those_of_a_loop(beta: float) -> None:
    """The student's texts, then the generalised JSD over them, over a window of two micro-batches; one step of SGD."""
    value_and_gradient_are_those_of_a_loop("causal_lm", beta)


def value_and_gradient_are_those_of_a_loop(task: str, beta: float) -> None:
    trainer = trainer_of(
        task,
        objectives=SoftTargets(kind="jsd", beta=beta, temperature=1.0),
        arguments={"gradient_accumulation_steps": 2},
    )
    student, teacher = copy.deepcopy(trainer.model), trainer.teacher.model  # type: ignore[union-attr]
    drawn = drawn_for(trainer.args.seed, 0, range(8), LENGTH)
    asked = [prompt_of(row, task) for row in rows(task, 16)[:8]]
    end = student.generation_config.eos_token_id
    texts = [(prompt, text_of(student, prompt, drawn[i], (end,))) for i, prompt in enumerate(asked)]
    student.eval()
    loss = by_hand(student, teacher, texts, beta)
    loss.backward()
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for (name, ours), theirs in zip(trainer.model.named_parameters(), student.parameters(), strict=True):
        moved = theirs.detach() - 0.1 * theirs.grad
        assert torch.allclose(ours.detach(), moved, rtol=0, atol=1e-6), name
    assert tiny.distance(trainer.model, student) > 1e-5


def test_how_rows_are_put_into_batches_changes_nothing() -> None:
    batches_change_nothing("causal_lm")


def batches_change_nothing(task: str) -> None:
    both = {"max_steps": 2}
    whole = trained(task, arguments={**both, "per_device_train_batch_size": 8})
    cut = trained(
        task,
        arguments={**both, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        data_collator=tiny.Pad(extra=7),
        on_policy=OnPolicy(student_share=1.0, max_new_tokens=LENGTH, rows_at_once=3),
    )
    assert max(gaps(whole, cut)) < 1e-6
    assert whole.state.log_history[0]["loss"] == pytest.approx(cut.state.log_history[0]["loss"], rel=1e-5)


def test_shares_of_nobody_are_the_data() -> None:
    policy = OnPolicy(student_share=0.0, max_new_tokens=LENGTH)
    assert gaps(trained(on_policy=policy), trained(on_policy=None)) == [0.0]


def test_the_teachers_share_is_written_by_the_teacher() -> None:
    trainer = trainer_of(on_policy=OnPolicy(student_share=0.0, teacher_share=1.0, max_new_tokens=LENGTH))
    teacher = trainer.teacher.model  # type: ignore[union-attr]
    drawn = drawn_for(trainer.args.seed, 0, range(4), LENGTH)
    made = rows("causal_lm", 16)[:4]
    expected = [text_of(teacher, prompt_of(row), drawn[i]) for i, row in enumerate(made)]
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    labels = batches[0]["labels"]
    assert [row[row != -100].tolist() for row in labels] == expected
    assert not teacher.training


def test_every_step_has_its_source_and_the_log_tells() -> None:
    policy = OnPolicy(student_share=0.4, teacher_share=0.3, max_new_tokens=LENGTH)
    trainer = trained(on_policy=policy, arguments={"max_steps": 6})
    logs = [log for log in trainer.state.log_history if "loss" in log]
    shares = [(log["on_policy/student_share"], log["on_policy/teacher_share"]) for log in logs]
    expected = [policy.source(trainer.args.seed, step) for step in range(6)]
    assert shares == [(float(each == "student"), float(each == "teacher")) for each in expected]
    assert {"student", "data"} <= set(expected)
    for log, source in zip(logs, expected, strict=True):
        assert ("on_policy/tokens" in log) is (source != "data")


def test_the_log_counts_what_was_written() -> None:
    trainer = trained(arguments={"max_steps": 2, "logging_steps": 2})
    log = trainer.state.log_history[0]
    student = small("causal_lm")
    made = rows("causal_lm", 16)
    drawn = drawn_for(trainer.args.seed, 0, range(4), LENGTH)
    first = [text_of(student, prompt_of(row), drawn[i]) for i, row in enumerate(made[:4])]
    one = trained(arguments={"max_steps": 1}).state.log_history[0]
    assert one["on_policy/tokens"] == sum(map(len, first))
    assert one["on_policy/ended_share"] == sum(text[-1] == 2 for text in first) / 4
    assert log["on_policy/texts"] == 8
    assert log["on_policy/mean_length"] == log["on_policy/tokens"] / 8
    assert log["on_policy/tokens_per_second"] == pytest.approx(log["on_policy/tokens"] / log["on_policy/seconds"])
    assert 0 < log["on_policy/share_of_time"] < 1


def test_a_process_without_a_batch_writes_nothing() -> None:
    trainer = trainer_of()
    batches, _ = trainer.get_batch_samples(iter([]), 2, trainer.args.device)
    assert batches == []


def test_another_policy_is_another_run(tmp_path: Path) -> None:
    from hf_distill import BrokenCheckpoint

    arguments = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trained(arguments=arguments)
    further = {**arguments, "max_steps": 2}
    for policy in (None, OnPolicy(student_share=1.0, max_new_tokens=LENGTH, temperature=0.9)):
        with pytest.raises(BrokenCheckpoint, match="texts written on policy"):
            trainer_of(arguments=further, on_policy=policy).train(resume_from_checkpoint=True)


def lora(student: PreTrainedModel) -> Any:
    torch.manual_seed(0)
    settings = {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.3, "init_lora_weights": False}
    return get_peft_model(student, LoraConfig(**settings))


def test_adapters_write() -> None:
    adapted = lora(small("causal_lm"))
    trainer = trainer_of(model=adapted)
    made = rows("causal_lm", 16)[:4]
    drawn = drawn_for(trainer.args.seed, 0, range(4), LENGTH)
    merged = copy.deepcopy(adapted).merge_and_unload()
    expected = [text_of(merged, prompt_of(row), drawn[i]) for i, row in enumerate(made)]
    batches, _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, trainer.args.device)
    assert [row[row != -100].tolist() for row in batches[0]["labels"]] == expected
    base = [text_of(small("causal_lm"), prompt_of(row), drawn[i]) for i, row in enumerate(made)]
    assert expected != base
    before = {name: each.clone() for name, each in adapted.named_parameters()}
    trainer.train()
    moved = {name for name, each in adapted.named_parameters() if not torch.equal(each, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_checkpointed_layers_change_nothing() -> None:
    name = (
        "activation_checkpointing"
        if hasattr(TrainingArguments, "activation_checkpointing")
        else "gradient_checkpointing"
    )
    checkpointed = {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    assert max(gaps(trained(arguments={"max_steps": 2}), trained(arguments={"max_steps": 2, **checkpointed}))) < 1e-6


def test_minillms_single_step_form_is_reverse_kl_on_the_students_texts() -> None:
    plain = SoftTargets(kind="reverse_kl", temperature=1.0)
    end = SoftTargets(kind="jsd", beta=1.0, temperature=1.0)
    assert max(gaps(trained(objectives=plain), trained(objectives=end))) < 1e-6


def test_a_callbacks_model_is_the_student_and_stays_in_training() -> None:
    trainer = trained(model=small("causal_lm", dropout=0.2))
    assert trainer.model.training
    assert isinstance(trainer.model, PreTrainedModel)
