"""The loss of a stage as a formula."""

from __future__ import annotations

from collections.abc import Sequence

from hf_distill.objectives.terms import Term
from hf_distill.objectives.weights import BOUND, Learned, Schedule

MEAN = "A term's name stands for its L, added up over what it counts and divided by how many of these a step has."


def total(terms: Sequence[Term]) -> str:
    """`total = 5 soft_targets + w_pkd(x) pkd + exp(-s_labels)/2 labels + s_labels/2`."""
    parts = []
    for term in terms:
        parts.append(f"{_factor(term)}{term.name}")
        if isinstance(term.weight, Learned):
            parts.append(f"s_{term.name}/2")
        if term.objective.two_sided:
            parts.append(f"auxiliary_{term.name}")
    return f"total = {' + '.join(parts)}"


def _factor(term: Term) -> str:
    if isinstance(term.weight, Schedule):
        return f"w_{term.name}(x) "
    if isinstance(term.weight, Learned):
        return f"exp(-s_{term.name})/2 "
    return "" if term.weight == 1.0 else f"{term.weight:g} "


def weights(terms: Sequence[Term]) -> list[str]:
    """What the letters of the formula stand for, one sentence each."""
    said = []
    for term in terms:
        if isinstance(term.weight, Schedule):
            said.append(f"w_{term.name}(x): {term.weight}, x the share of the steps that are over")
        if isinstance(term.weight, Learned):
            said.append(
                f"s_{term.name}: learned, at a rate of {term.weight.learning_rate:g}; from 0, held between "
                f"-{BOUND:g} and {BOUND:g}"
            )
        if term.objective.two_sided:
            said.append(f"auxiliary_{term.name}: the loss of what opposes the student, which trains that part alone")
    return said


def weight_of(term: Term) -> str:
    """The weight in words."""
    if isinstance(term.weight, Schedule | Learned):
        return str(term.weight)
    return f"{term.weight:g}"
