"""Objectives over further passes: what they refuse, and how they train."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import IterableDataset
from transformers import TrainingArguments

from hf_distill import (
    CSKD,
    DDGSD,
    DataError,
    DistillationError,
    DistillationTrainer,
    GradientAttentionTransfer,
    IncompatiblePair,
    JacobianMatching,
    JacobianMatchingNoise,
    Labels,
    SoftTargets,
    objectives,
    students,
)
from hf_distill.objectives import Pair
from hf_distill.objectives.input_gradients import SENTENCES
from hf_distill.tasks import IGNORED, TASKS
from tests import tiny
from tests.shapes import shape

TASK = "single_label"
NAMES = ("cs_kd", "ddgsd", "gradient_attention_transfer", "jacobian_matching", "jacobian_matching_noise")
ALL = {
    "cs_kd": lambda: Labels() + CSKD(),
    "ddgsd": lambda: DDGSD(mmd_weight=0.1, share=0.3),
    "gradient_attention_transfer": lambda: Labels() + 3.0 * GradientAttentionTransfer(),
    "jacobian_matching": lambda: SoftTargets() + 3.0 * JacobianMatching(space="shared"),
    "jacobian_matching_noise": lambda: Labels() + JacobianMatchingNoise(draws=2),
}
EXACT = ("cs_kd", "gradient_attention_transfer", "jacobian_matching")
"""Those that draw nothing at random for a batch, so that it may be cut and padded in any way."""


def trainer_for(
    name: str, terms: Any = None, *, padding: int = 0, dropout: float = 0.0, **given: Any
) -> DistillationTrainer:
    torch.manual_seed(0)
    teacher = tiny.model(TASK, layers=3, seed=2)
    student = students.from_layers(teacher, layers=2)
    student.config.hidden_dropout_prob = dropout
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    settings = {
        "model": student,
        "teacher": None if name in ("cs_kd", "ddgsd") else teacher,
        "objectives": ALL[name]() if terms is None else terms,
        "args": tiny.arguments(**{"max_steps": 2, "learning_rate": 0.02, **given.pop("arguments", {})}),
        "train_dataset": tiny.rows(TASK),
        "data_collator": tiny.Pad(padding),
    }
    return DistillationTrainer(**{**settings, **given})


def trained(name: str, **given: Any) -> DistillationTrainer:
    trainer = trainer_for(name, **given)
    torch.manual_seed(1)
    trainer.train()
    return trainer


def logged(trainer: DistillationTrainer, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


# ---- refusals ----


def pair(task: str, classes: int = 3) -> Pair:
    return Pair.from_shapes(shape(num_logits=classes), shape(num_logits=classes), TASKS[task])


@pytest.mark.parametrize("name", ["cs_kd", "ddgsd", "gradient_attention_transfer"])
@pytest.mark.parametrize("task", ["regression", "multi_label", "token_classification", "masked_lm", "encoder"])
def test_refuses_a_task_without_one_class_a_text(name: str, task: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: .*a {task} task.* single_label"):
        objectives.make(name, {}).bind(pair(task))


@pytest.mark.parametrize("name", ["cs_kd", "ddgsd"])
def test_refuses_a_single_class(name: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: .*with 1 outputs"):
        objectives.make(name, {}).bind(pair(TASK, 1))


@pytest.mark.parametrize("name", ["jacobian_matching", "jacobian_matching_noise"])
@pytest.mark.parametrize("task", ["token_classification", "question_answering", "causal_lm"])
def test_refuses_a_task_without_one_answer_a_text(name: str, task: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: a {task} task has no answer .* for {', '.join(SENTENCES)}"):
        objectives.make(name, {}).bind(pair(task))


def test_refuses_the_label_of_a_regression() -> None:
    with pytest.raises(IncompatiblePair, match=r"target is 'label'.*regression.*target='teacher'"):
        JacobianMatching(target="label").bind(pair("regression", 1))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("cs_kd", {"temperature": 0}, "temperature is 0; it must be a number above 0"),
        ("ddgsd", {"share": 0.0}, "share is 0.0"),
        ("ddgsd", {"share": 1.5}, "share is 1.5"),
        ("ddgsd", {"distortion": "dropout", "share": 0.5}, "'dropout' and share 0.5; .*leave share out"),
        ("ddgsd", {"distortion": "mask_token"}, "did you mean 'mask_tokens'"),
        ("ddgsd", {"distortion": "mask_tokens"}, "mask_token_id None; set mask_token_id"),
        ("ddgsd", {"mask_token_id": 3}, "distortion is 'drop_tokens' and mask_token_id 3"),
        ("ddgsd", {"distortion": "mask_tokens", "mask_token_id": -1}, "mask_token_id is -1"),
        ("jacobian_matching", {"space": "tokens"}, "did you mean 'token'"),
        ("jacobian_matching", {"target": "student"}, "target is 'student'"),
        ("jacobian_matching_noise", {"draws": 0}, "draws is 0; it must be a whole number from 1 on"),
        ("jacobian_matching_noise", {"sigma": 0}, "sigma is 0"),
    ],
)
def test_refuses_settings_out_of_range(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make(name, settings)


def test_refuses_a_mask_token_beyond_the_vocabulary() -> None:
    with pytest.raises(IncompatiblePair, match="mask_token_id is 30, and the student's vocabulary has 30"):
        DDGSD(distortion="mask_tokens", mask_token_id=30).bind(pair(TASK))


@pytest.mark.parametrize(
    "terms", [JacobianMatching(space="shared"), GradientAttentionTransfer(space="shared"), JacobianMatchingNoise()]
)
def test_refuses_a_shared_space_of_two_tables(terms: Any) -> None:
    with pytest.raises(IncompatiblePair, match=r"in another table than its teacher.*students\.from_layers"):
        trainer_for("jacobian_matching", Labels() + terms, model=tiny.model(TASK, seed=5))
    trainer_for("jacobian_matching", Labels() + JacobianMatching(), model=tiny.model(TASK, hidden=16, seed=5))


@pytest.mark.parametrize("terms", [JacobianMatching(), GradientAttentionTransfer()])
def test_refuses_a_fused_attention_before_the_first_step(terms: Any) -> None:
    model = tiny.model(TASK)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(IncompatiblePair, match="'flash_attention_2', which has no second derivative"):
        trainer_for("jacobian_matching", terms, model=model)


def test_refuses_partners_in_batches_with_a_budget() -> None:
    with pytest.raises(DistillationError, match="'cs_kd' has each row bring a partner, and tokens_per_batch"):
        trainer_for("cs_kd", tokens_per_batch=64)


def test_refuses_partners_of_a_stream_and_of_rows_without_labels() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(tiny.rows(TASK))

    with pytest.raises(DataError, match="those of a stream are not known"):
        trainer_for("cs_kd", train_dataset=Stream())
    bare = Dataset.from_list([{"input_ids": row["input_ids"]} for row in tiny.rows(TASK)])
    with pytest.raises(DataError, match="no column 'labels'"):
        trainer_for("cs_kd", CSKD(), train_dataset=bare)


def test_refuses_to_cache_what_a_pass_shows(tmp_path: Path) -> None:
    trainer = trainer_for("jacobian_matching")
    with pytest.raises(
        IncompatiblePair, match=r"input_gradient \(input gradient\): a teacher's cache holds.*of the batch as it is"
    ):
        trainer.cache_teacher(tmp_path / "cache")


def test_a_batch_without_partners_is_named() -> None:
    objective = CSKD()
    objective.bind(pair(TASK))
    with pytest.raises(DataError, match="no column 'partner_found', only input_ids"):
        objective.count({"input_ids": torch.zeros(1, 1)}, TASKS[TASK])


# ---- training ----


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_evaluates_without_further_passes(name: str) -> None:
    trainer = trainer_for(name, eval_dataset=tiny.rows(TASK, 6, seed=4))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    values = logged(trainer, f"objective/{name}")
    assert len(values) == 2
    assert all(value > 0 for value in values)
    assert any((p - q).abs().max() > 1e-5 for p, q in zip(trainer.model.parameters(), before, strict=True))
    runs: list[int] = []
    embedding = trainer.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, args, output: runs.append(len(output)))
    trainer.evaluate()
    handle.remove()
    assert runs == [6]


@pytest.mark.parametrize("name", EXACT)
def test_micro_batches_and_padding_do_not_matter(name: str) -> None:
    whole = trained(name)
    for other in (
        trained(name, arguments={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
        trained(name, padding=37),
    ):
        assert tiny.distance(whole.model, other.model) < 2e-6
        assert logged(whole, "loss") == pytest.approx(logged(other, "loss"), abs=1e-5)


def test_distorted_and_noisy_micro_batches_count_as_one() -> None:
    """Without dropout or distortion the two copies are alike, and nothing but the count is left."""
    terms = [DDGSD(distortion="dropout", mmd_weight=0.0) for _ in range(2)]
    whole = trained("ddgsd", terms=terms[0])
    cut = trained(
        "ddgsd", terms=terms[1], arguments={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    )
    assert tiny.distance(whole.model, cut.model) < 2e-6
    labels = trained("ddgsd", terms=Labels())
    assert tiny.distance(whole.model, labels.model) < 2e-6


def labelled_in_part(**given: Any) -> DistillationTrainer:
    """A step over 16 rows of which few have a label, and the first two none."""
    rows = tiny.rows(TASK, 16)
    for i in set(range(16)) - {3, 4, 9}:
        rows[i]["labels"] = IGNORED
    return trained("ddgsd", train_dataset=rows, **given)


def alike(terms: Any = None, **arguments: Any) -> DistillationTrainer:
    """The same with copies that do not differ, or other terms, over accumulated micro-batches of 4 rows."""
    terms = DDGSD(distortion="dropout", mmd_weight=0.0) if terms is None else terms
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, **arguments}
    return labelled_in_part(terms=terms, arguments=settings)


def test_the_cross_entropy_of_distorted_copies_is_a_mean_over_labels() -> None:
    labels = alike(Labels())
    for settings in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}):
        found = alike(**settings)
        assert tiny.distance(found.model, labels.model) < 2e-6
        assert logged(found, "loss") == pytest.approx(logged(labels, "loss"), abs=1e-5)
    beside = alike(Labels() + DDGSD(distortion="dropout", mmd_weight=0.0))
    assert logged(beside, "objective/ddgsd") == pytest.approx(logged(beside, "objective/labels"), abs=1e-5)


def test_distorted_copies_need_no_label() -> None:
    trainer = trained("ddgsd", train_dataset=[{**row, "labels": IGNORED} for row in tiny.rows(TASK)], dropout=0.1)
    assert all(0 < value < 1 for value in logged(trainer, "loss"))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_where_a_whole_one_does(name: str, tmp_path: Path) -> None:
    """With dropout, in the second epoch, so that partners and draws are not those of the first."""
    arguments = {
        "max_steps": 6, "save_strategy": "steps", "save_steps": 5, "output_dir": str(tmp_path),
        "train_sampling_strategy": "random",
    }  # fmt: skip
    whole = trained(name, dropout=0.1, arguments=arguments)
    again = trainer_for(name, dropout=0.1, arguments=arguments)
    torch.manual_seed(1)  # which the order of the rows follows from
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert tiny.distance(whole.model, again.model) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_adapters_train(name: str) -> None:
    model = get_peft_model(
        students.from_layers(tiny.model(TASK, layers=3, seed=2), layers=2), LoraConfig(task_type="SEQ_CLS", r=2)
    )
    trainer = trainer_for(name, model=model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer.train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any("lora_B" in n for n in moved)
    assert all("lora_" in n or "modules_to_save" in n for n in moved)


@pytest.mark.parametrize(("name", "reentrant"), [*((name, False) for name in NAMES), ("jacobian_matching", True)])
def test_checkpointed_activations_change_nothing(name: str, reentrant: bool) -> None:
    """The pass whose gradient is differentiated runs in evaluation mode, which checkpoints nothing."""
    kind = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
    settings = {f"{kind}_checkpointing": True, f"{kind}_checkpointing_kwargs": {"use_reentrant": reentrant}}
    runs = [trained(name, arguments=arguments) for arguments in ({}, settings)]
    assert tiny.distance(runs[0].model, runs[1].model) < 2e-6


def test_the_first_answers_are_those_of_a_run_without_further_passes() -> None:
    """Their draws come after the main pass, whose dropout they leave alone."""
    labels = [
        logged(trained("cs_kd", terms=terms, dropout=0.2), "objective/labels")[0]
        for terms in (Labels(), Labels() + CSKD())
    ]
    assert labels[0] == labels[1]


def test_partners_come_with_length_groups_and_a_data_set() -> None:
    rows = Dataset.from_list(tiny.rows(TASK))
    trainer = trained("cs_kd", train_dataset=rows, arguments={"train_sampling_strategy": "group_by_length"})
    assert len(logged(trainer, "objective/cs_kd")) == 2
    assert trainer.train_dataset is rows


def test_a_class_of_one_row_is_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "labels": int(i == 0)} for i, row in enumerate(tiny.rows(TASK))]
    with caplog.at_level(logging.WARNING):
        trainer_for("cs_kd", train_dataset=rows)
    assert "the classes 'LABEL_1' have one training row each" in caplog.text


def test_mixed_precision_leaves_input_gradients_alone() -> None:
    """The directions are those of float32, not of bfloat16, whose error is a hundred times larger."""
    first = [
        logged(trained("jacobian_matching", arguments={"max_steps": 1, **given}), "objective/jacobian_matching")[0]
        for given in ({}, {"bf16": True})
    ]
    assert first[0] == pytest.approx(first[1], rel=1e-5)


@pytest.mark.slow
def test_passes_stay_out_of_a_compiled_graph() -> None:
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    runs = [trained("jacobian_matching", arguments=arguments) for arguments in ({}, compiled)]
    torch._dynamo.reset()
    assert tiny.distance(runs[0].model, runs[1].model) < 2e-6
