"""What a cost is made of, with made-up times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency
from hf_distill.search import clock
from hf_distill.search.clock import Clock, sample
from hf_distill.search.forms import BFLOAT16, COMPILED, EAGER, FLOAT32, PLAIN, Form, Ready, in_bfloat16, ready
from tests import tiny_models

TEXTS = [f"text {i}" for i in range(200)]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The measurements asked for; they take 1, 2, 3 … milliseconds."""
    asked: list[dict[str, Any]] = []

    def measure(model: Any, tokenizer: Any, texts: Any, **settings: Any) -> Latency:
        asked.append({"model": model, "texts": texts, **settings})
        return Latency(float(len(asked)), 0.0, 0.0, 1.0, 1, "cpu", len(texts))

    monkeypatch.setattr(clock, "measure_latency", measure)
    return asked


def clock_and_student(form: Form) -> tuple[Clock, Ready]:
    teacher = tiny_models.tiny("bert", tiny_models.CLASSIFIER, layers=2)
    student = tiny_models.tiny("bert", tiny_models.CLASSIFIER, layers=1)
    place = torch.device("cpu")
    made = ready(student, None, form, place, None)  # type: ignore[arg-type]
    return Clock(teacher, None, place, TEXTS, 24), made  # type: ignore[arg-type]


def test_the_teacher_is_timed_before_and_after(timed: list[dict[str, Any]]) -> None:
    watch, student = clock_and_student(PLAIN)
    cost = watch.cost(student, PLAIN)
    assert [each["model"] for each in timed] == [watch.teacher, student.model, watch.teacher]
    assert timed[1]["call"] is student.model
    assert all(each["texts"] == timed[0]["texts"] and each["max_length"] == 24 for each in timed)
    assert cost.latency.milliseconds_per_sentence == 2.0
    assert cost.teacher_ms == 2.0  # 1 and 3
    assert cost.params == sum(parameter.numel() for parameter in student.model.parameters())
    assert cost.size_bytes == 4 * cost.params


def test_a_model_that_no_compiler_takes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*given: Any, **settings: Any) -> Latency:
        raise RuntimeError("backend='inductor' raised:\nCppCompileError")

    watch, student = clock_and_student(PLAIN)
    monkeypatch.setattr(clock, "measure_latency", measure)
    with pytest.raises(DistillationError, match=r"torch.compile cannot run BertFor.*: backend='inductor' raised:$"):
        watch.cost(student, Form(FLOAT32, COMPILED))
    with pytest.raises(RuntimeError, match="CppCompileError"):
        watch.cost(student, PLAIN)


def test_what_is_compiled_runs_once_before_the_clock_does(timed: list[dict[str, Any]]) -> None:
    watch, student = clock_and_student(Form(BFLOAT16, EAGER))
    student = replace(student, call=lambda **inputs: student.model(**inputs))
    cost = watch.cost(student, Form(BFLOAT16, COMPILED))
    assert [each["model"] for each in timed] == [student.model, watch.teacher, student.model, watch.teacher]
    assert timed[0]["call"] is timed[2]["call"] is student.call
    assert cost.latency.milliseconds_per_sentence == 3.0
    assert cost.size_bytes == 2 * cost.params


def test_the_same_few_texts_every_time() -> None:
    assert sample(TEXTS) == sample(TEXTS)
    assert len(set(sample(TEXTS))) == 64
    assert set(sample(TEXTS[:3])) == set(TEXTS[:3])


def test_bfloat16_is_a_copy_with_its_buffers_as_they_were() -> None:
    model = tiny_models.tiny("llama", tiny_models.CLASSIFIER)
    model.register_buffer("counted", torch.tensor([1.001]))
    copied = in_bfloat16(model)
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert copied.counted.item() == model.counted.item()
    for name, parameter in model.named_parameters():
        assert torch.equal(copied.get_parameter(name), parameter.to(torch.bfloat16))


def test_answers_in_bfloat16_are_those_in_float32_to_its_digits() -> None:
    model = tiny_models.tiny("bert", tiny_models.CLASSIFIER)
    batch = tiny_models.batch("bert")
    expected = model(**batch).logits.detach()
    found = ready(model, None, Form(BFLOAT16, EAGER), torch.device("cpu"), None)  # type: ignore[arg-type]
    assert torch.allclose(
        found.call(**batch).logits.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max())
    )
