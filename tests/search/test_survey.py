"""Which shapes are measured and kept, on a made-up machine whose times are known."""

from __future__ import annotations

import pytest

from hf_distill.errors import DistillationError
from hf_distill.search import Budget, forms
from hf_distill.search.budget import Cost
from hf_distill.search.forms import BFLOAT16, EAGER, INT8, ONNX, PLAIN, Form
from hf_distill.search.shapes import Shape, Width
from hf_distill.search.survey import predictions, survey
from tests.search.test_budget import cost

INT8_ONNX = Form(INT8, ONNX)
WIDE, NARROW = Width(64, 4, 256, whole=True), Width(32, 2, 128)
SHAPES = [
    Shape(depth, width, width.hidden_size * 1000 + depth * width.hidden_size * 10, 10**6)
    for width in (NARROW, WIDE)
    for depth in range(1, 7)
]


class MadeUp:
    """A bench on which a layer takes a hundredth of a millisecond for each unit of width, in 8 bits half of that, and
    what comes before the layers one millisecond."""

    def __init__(self, missing: tuple[str, ...] = ()) -> None:
        self.missing = missing
        self.asked: list[tuple[str, str]] = []
        self.known: dict[tuple[str, str], Cost] = {}
        self.refused: dict[str, str] = {}

    def measured(self, shape: Shape, form: Form) -> Cost | None:
        return self.known.get((shape.name, form.name))

    def cost(self, shape: Shape, form: Form) -> Cost | None:
        key = shape.name, form.name
        if form.name in self.missing:
            self.refused[form.name] = "it cannot be exported"
        elif key not in self.known:
            self.asked.append(key)
            time = 1 + shape.num_hidden_layers * shape.width.hidden_size / (200 if form == INT8_ONNX else 100)
            self.known[key] = cost(time, 16.0, shape.params * 4, shape.params)
        return self.known.get(key)


def names(found: list) -> list[str]:
    return [candidate.name for candidate in found]


def test_the_largest_of_each_width_that_fits_with_time_to_spare() -> None:
    bench = MadeUp()
    found = survey(SHAPES, [PLAIN], bench, Budget(latency_ms=3.0), keep=2)
    # wide: 1 + 0.64 d <= 2.85 for d <= 2; narrow: 1 + 0.32 d <= 2.85 for d <= 5
    assert names(found) == ["2x64 float32 eager", "5x32-128 float32 eager"]
    assert found[0].cost.latency.milliseconds_per_sentence == pytest.approx(2.28)
    assert names(survey(SHAPES, [PLAIN], bench, Budget(latency_ms=3.0), keep=1)) == ["2x64 float32 eager"]


def test_shapes_that_are_too_large_for_a_form_do_not_rule_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a teacher of more than two gigabytes, of which ONNX Runtime takes no file."""
    monkeypatch.setattr(forms, "MAX_BYTES", 4 * (64_000 + 4 * 640))
    bench = MadeUp()
    found = survey(SHAPES, [INT8_ONNX], bench, Budget(latency_ms=30.0), keep=2)
    assert names(found) == ["3x64 int8 onnx", "6x32-128 int8 onnx"]
    assert not {"4x64", "5x64", "6x64"} & {name for name, _ in bench.asked}
    monkeypatch.setattr(forms, "MAX_BYTES", 8)
    with pytest.raises(DistillationError, match="no model can be had in any form: all are too large for ONNX"):
        survey(SHAPES, [INT8_ONNX], MadeUp(), Budget(latency_ms=30.0), keep=1)


def test_a_form_that_allows_more_layers_is_taken_for_these() -> None:
    found = survey(SHAPES, [PLAIN, INT8_ONNX], MadeUp(), Budget(latency_ms=3.0), keep=1)
    assert names(found) == ["5x64 int8 onnx"]  # 1 + 0.32 d


def test_of_forms_in_which_the_same_shape_fits_the_most_exact_one_is_taken() -> None:
    forms = [INT8_ONNX, Form(BFLOAT16, EAGER), PLAIN]
    found = survey(SHAPES, forms, MadeUp(), Budget(params=64_000 + 6 * 640), keep=1)
    assert names(found) == ["6x64 float32 eager"]


def test_eight_shapes_in_each_form_are_measured_and_those_near_the_limit() -> None:
    bench = MadeUp()
    survey(SHAPES, [PLAIN, INT8_ONNX], bench, Budget(latency_ms=3.0), keep=2)
    for form in (PLAIN, INT8_ONNX):
        measured = {name for name, of in bench.asked if of == form.name}
        assert len(measured) >= 8
        assert {"1x64", "6x64", "1x32-128", "6x32-128"} <= measured
    assert ("3x64", PLAIN.name) in bench.asked  # 2.92 of 2.85
    assert len(bench.asked) == len(set(bench.asked))


def test_what_lies_between_is_predicted_as_the_machine_is() -> None:
    bench = MadeUp()
    for shape in SHAPES:
        if shape.num_hidden_layers in (1, 6):
            bench.cost(shape, PLAIN)
    for shape, amounts in predictions(SHAPES, PLAIN, bench).items():
        time = 1 + shape.num_hidden_layers * shape.width.hidden_size / 100
        assert amounts["latency_ms"] == pytest.approx(time)
        assert amounts["latency_share"] == pytest.approx(time / 16)
        assert amounts["size_mb"] == pytest.approx(shape.params * 4 / 1e6)
        assert amounts["params"] == shape.params


def test_a_form_that_cannot_be_had_is_left_out() -> None:
    bench = MadeUp(missing=(INT8_ONNX.name,))
    assert names(survey(SHAPES, [PLAIN, INT8_ONNX], bench, Budget(latency_ms=3.0), keep=1)) == ["2x64 float32 eager"]
    with pytest.raises(DistillationError, match="in any form: it cannot be exported"):
        survey(SHAPES, [INT8_ONNX], bench, Budget(latency_ms=3.0), keep=1)


def test_a_form_that_some_student_cannot_have_is_told_where_no_other_is_left() -> None:
    class Late(MadeUp):
        """Refuses what is measured behind the first eight."""

        def cost(self, shape: Shape, form: Form) -> Cost | None:
            if len(self.asked) >= 8 and (shape.name, form.name) not in self.known:
                self.refused[form.name] = "too deep to be exported"
            return super().cost(shape, form)

    with pytest.raises(DistillationError, match="in any form: too deep to be exported"):
        survey(SHAPES, [PLAIN], Late(), Budget(latency_ms=3.0), keep=2)


def test_a_budget_that_nothing_meets_names_what_comes_nearest() -> None:
    with pytest.raises(DistillationError, match=r"The nearest is 1x32-128 float32 eager: 1\.32 ms .*, 1\.32 times"):
        survey(SHAPES, [PLAIN], MadeUp(), Budget(latency_ms=1.0), keep=1)
    for budget, said in (
        (Budget(latency_ms=1.0), "with 5% of the time to spare"),
        (Budget(params=1), "1 parameters. T"),
    ):
        with pytest.raises(DistillationError, match=said):
            survey(SHAPES, [PLAIN], MadeUp(), budget, keep=1)
