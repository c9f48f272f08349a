"""Which students fit a budget: some candidates are measured, the others predicted, and those that count measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_distill.errors import DistillationError
from hf_distill.search.bench import Bench
from hf_distill.search.budget import HEADROOM, TIMES, Budget, Cost, told
from hf_distill.search.forms import FORMS, Form, holds
from hf_distill.search.shapes import Shape, by_width

logger = logging.getLogger(__name__)

FEWEST = 8
"""Shapes that are measured in each form, where there are as many."""

NEAR = 0.25
"""What is predicted within so much of a limit of time is measured."""


@dataclass(frozen=True)
class Candidate:
    """A shape in the form in which it is to be used, and what that costs."""

    shape: Shape
    form: Form
    cost: Cost

    @property
    def name(self) -> str:
        """`3x384 int8 onnx`."""
        return f"{self.shape.name} {self.form.name}"


def survey(shapes: Sequence[Shape], forms: Sequence[Form], bench: Bench, budget: Budget, keep: int) -> list[Candidate]:
    """The largest student of each width that fits the budget with some time to spare, the `keep` largest of these.

    Of each width, the shallowest and the deepest shape are measured in each form, and further ones until there are
    eight; the time and size of the others are taken to grow evenly with depth in between. What is predicted near the
    budget, and all that might be kept, is measured; only measured students are kept. The largest is the one with the
    most parameters; of its forms that fit, the first of `FORMS` is taken. Shapes too large for a form are left out in
    it.

    Raises: `DistillationError` where nothing fits, which says what comes nearest.
    """
    fitted = _not_refused([form for form in forms if _measure_some(_held(shapes, form), form, bench)], bench)
    chosen_by = budget.with_headroom()
    for form in fitted:
        predicted = predictions(_held(shapes, form), form, bench)
        for shape in predicted:
            if abs(chosen_by.overrun(predicted[shape]) - 1) <= NEAR:
                bench.cost(shape, form)
    while True:
        fitted = _not_refused(fitted, bench)
        kept = _kept(shapes, fitted, bench, chosen_by, keep)
        if not kept:
            raise DistillationError(_nearest(shapes, fitted, bench, budget))
        unknown = [(shape, form) for shape, form in kept if bench.measured(shape, form) is None]
        if not unknown:
            return [Candidate(shape, form, _known(bench, shape, form)) for shape, form in kept]
        for shape, form in unknown:
            bench.cost(shape, form)


def _held(shapes: Sequence[Shape], form: Form) -> list[Shape]:
    return [shape for shape in shapes if holds(form, shape.params)]


def _not_refused(forms: Sequence[Form], bench: Bench) -> list[Form]:
    """Those in which every student that was tried can be had. Raises: `DistillationError` where there are none."""
    found = [form for form in forms if form.name not in bench.refused]
    if not found:
        why = "; ".join(bench.refused.values()) or "all are too large for ONNX Runtime"
        raise DistillationError(f"no model can be had in any form: {why}")
    return found


def predictions(shapes: Sequence[Shape], form: Form, bench: Bench) -> dict[Shape, dict[str, float]]:
    """What each shape costs in a form, in the units of a budget: as measured, or between its neighbours in depth."""
    found = {}
    for same in by_width(list(shapes)).values():
        costs = [(shape, bench.measured(shape, form)) for shape in same]
        known = [(shape.num_hidden_layers, cost.amounts()) for shape, cost in costs if cost is not None]
        depths = [depth for depth, _ in known]
        for shape, cost in costs:
            amounts = {
                name: float(np.interp(shape.num_hidden_layers, depths, [each[name] for _, each in known]))
                for name in ("latency_ms", "latency_share", "size_mb")
            }
            found[shape] = {**amounts, "params": float(shape.params)} if cost is None else cost.amounts()
    return found


def _measure_some(shapes: Sequence[Shape], form: Form, bench: Bench) -> bool:
    """The ends of each width, and more up to eight, spread over all; whether the form can be had of any of them."""
    groups = by_width(list(shapes)).values()
    first = list(dict.fromkeys(shape for same in groups for shape in (same[0], same[-1])))
    others = [shape for shape in shapes if shape not in first]
    number = min(len(others), max(0, FEWEST - len(first)))
    places = np.linspace(0, len(others) - 1, number).round().astype(int)
    chosen = [*first, *(others[place] for place in places)]
    return bool(chosen) and all(bench.cost(shape, form) is not None for shape in chosen)


def _kept(
    shapes: Sequence[Shape], forms: Sequence[Form], bench: Bench, budget: Budget, keep: int
) -> list[tuple[Shape, Form]]:
    """By what is known so far."""
    predicted = {form: predictions(_held(shapes, form), form, bench) for form in forms}
    found = []
    for same in by_width(list(shapes)).values():
        had = [(shape, form) for shape in same for form in forms if shape in predicted[form]]
        fitting = [(shape, form) for shape, form in had if budget.overrun(predicted[form][shape]) <= 1]
        if fitting:
            found.append(max(fitting, key=lambda each: (each[0].params, -FORMS.index(each[1]))))
    return sorted(found, key=lambda each: -each[0].params)[:keep]


def _known(bench: Bench, shape: Shape, form: Form) -> Cost:
    cost = bench.measured(shape, form)
    assert cost is not None  # what is kept is measured
    return cost


def _nearest(shapes: Sequence[Shape], forms: Sequence[Form], bench: Bench, budget: Budget) -> str:
    """What is said where nothing fits: the measured candidate that exceeds the budget least."""
    measured = [
        (budget.overrun(cost.amounts()), f"{shape.name} {form.name}", cost)
        for shape in shapes
        for form in forms
        if (cost := bench.measured(shape, form)) is not None
    ]
    spare = f" with {HEADROOM:.0%} of the time to spare" if budget.limits().keys() & set(TIMES) else ""
    over, name, cost = min(measured, key=lambda each: each[0])
    return (
        f"no student of {len(measured)} that were measured keeps to {told(budget.limits())}{spare}. The nearest is "
        f"{name}: {told(cost.amounts())}, {over:.2f} times the budget. Allow more, or take a smaller teacher."
    )
