"""A student's base as its teacher: the same weights with the adapter switched off."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets
from hf_distill.checks import has_whole_student
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.teachers import AdapterOff
from tests import tiny


def adapted(task: str = "single_label", dropout: float = 0.0, **settings: Any) -> Any:
    torch.manual_seed(1)
    given = {"target_modules": ["query", "q_proj"], "init_lora_weights": False, "lora_alpha": 32, **settings}
    return get_peft_model(tiny.model(task, seed=4, dropout=dropout), LoraConfig(**given))


def trainer_of(student: Any, objectives: Any, teacher: Any = None, task: str = "single_label", **settings: Any) -> Any:
    return DistillationTrainer(
        model=student,
        teacher=AdapterOff() if teacher is None else teacher,
        objectives=objectives,
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows(task, 32),
        data_collator=tiny.Pad(),
    )


@pytest.mark.parametrize("task", ["single_label", "causal_lm"])
def test_it_shows_what_the_base_shows(task: str) -> None:
    base, student = tiny.model(task, seed=4), adapted(task, dropout=0.3)
    trainer = trainer_of(student, SoftTargets() + Labels() + HiddenMSE(layer_map="final"), task=task)
    batch = tiny.Pad()(tiny.rows(task, 8))
    student.train()
    shown = trainer.teacher.activations(batch)
    assert all(module.training for module in student.modules())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = base.eval()(**inputs, output_hidden_states=True)
        own = student.eval()(**inputs)
    assert torch.equal(shown.logits, expected.logits)
    if task == "single_label":
        assert torch.equal(shown.hidden[2], expected.hidden_states[2])
    assert not torch.allclose(own.logits, expected.logits, atol=1e-3)


def test_it_trains_as_a_copy_of_the_base_would() -> None:
    """Bit by bit, though the adapter is switched off and on in every step."""
    terms = [SoftTargets(temperature=2.0) + Labels() + HiddenMSE(layer_map="final") for _ in range(2)]
    own = trainer_of(adapted(), terms[0])
    copied = trainer_of(adapted(), terms[1], tiny.model("single_label", seed=4))
    own.train()
    copied.train()
    assert tiny.distance(own.model, copied.model) < 1e-7
    assert tiny.distance(own.model, adapted()) > 1e-3


def test_what_trains_stays_what_trains() -> None:
    student = adapted()
    trainer = trainer_of(student, SoftTargets() + Labels())
    frozen = next(parameter for parameter in student.parameters() if parameter.requires_grad)
    frozen.requires_grad_(False)
    before = [parameter.requires_grad for parameter in student.parameters()]
    trainer.teacher.activations(tiny.Pad()(tiny.rows("single_label", 4)))
    assert [parameter.requires_grad for parameter in student.parameters()] == before
    assert any(before)


def test_a_head_that_the_adapter_saves_whole() -> None:
    student = adapted(task_type="SEQ_CLS")
    with pytest.raises(IncompatiblePair, match=r"saves classifier, score whole.*AdapterOff\(base_has_head=True\)"):
        trainer_of(student, SoftTargets() + Labels())
    trainer_of(student, HiddenMSE(layer_map="final") + Labels())
    trainer = trainer_of(student, SoftTargets() + Labels(), AdapterOff(base_has_head=True))
    batch = tiny.Pad()(tiny.rows("single_label", 8))
    with torch.no_grad():
        student.base_model.model.classifier.modules_to_save["default"].weight.add_(1.0)
        expected = tiny.model("single_label", seed=4).eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
    assert torch.equal(trainer.teacher.activations(batch).logits, expected.logits)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_train_are_refused(bias: str) -> None:
    """They are the base's own, and stay as they were trained where the adapter is off."""
    with pytest.raises(IncompatiblePair, match=rf"bias='{bias}'.*set bias='none'"):
        trainer_of(adapted(bias=bias), SoftTargets() + Labels())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_starts_that_rewrite_the_base_are_refused(start: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"init_lora_weights='{start}'.*set True, False, 'eva'"):
        trainer_of(adapted(init_lora_weights=start), SoftTargets() + Labels())


@pytest.mark.parametrize("settings", [{}, {"init_lora_weights": "gaussian"}, {"use_dora": True}])
def test_starts_that_leave_the_base(settings: dict[str, Any]) -> None:
    trainer = trainer_of(adapted(**{"init_lora_weights": True, **settings}), SoftTargets() + Labels())
    batch = tiny.Pad()(tiny.rows("single_label", 8))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = tiny.model("single_label", seed=4).eval()(**inputs)
    assert torch.equal(trainer.teacher.activations(batch).logits, expected.logits)


def test_alone_it_teaches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    trainer_of(adapted(), SoftTargets() + Labels())
    assert "which it equals at the start" not in caplog.text
    trainer_of(adapted(), SoftTargets() + HiddenMSE(layer_map="final"))
    assert "which it equals at the start: nothing would be taught" in caplog.text


def test_what_is_refused() -> None:
    with pytest.raises(IncompatiblePair, match="a BertForSequenceClassification, has none; give a PeftModel"):
        trainer_of(tiny.model("single_label"), SoftTargets() + Labels())
    with pytest.raises(DistillationError, match="leave torch_compile out"):
        AdapterOff().compile()
    with pytest.raises(DistillationError, match="the teacher, AdapterOff, is made of the student's parameters"):
        has_whole_student(AdapterOff(), sharded=True)
    with pytest.raises(DistillationError, match="base_has_head is 'yes'"):
        AdapterOff(base_has_head="yes")  # type: ignore[arg-type]


def test_a_copy_of_the_student_is_not_needed() -> None:
    student = adapted()
    trainer = trainer_of(student, SoftTargets() + Labels())
    assert trainer.teacher.models == ()
    assert trainer.teacher.anatomy.model is student
    assert copy.copy(trainer.teacher).state() == {}
