"""The algebra of weighted objectives, and their names."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from hf_distill.errors import DistillationError
from hf_distill.objectives import HiddenMSE, Labels, SoftTargets, Term, Terms


def names(terms: Terms) -> list[str]:
    return [term.name for term in terms]


def test_a_weighted_sum() -> None:
    soft, hard = SoftTargets(), Labels()
    terms = 5.0 * soft + 2 * hard
    assert [(term.objective, term.weight, term.name) for term in terms] == [
        (soft, 5.0, "soft_targets"),
        (hard, 2.0, "labels"),
    ]
    assert repr(terms) == "5 * soft_targets + 2 * labels"


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b, c: a + b + c,
        lambda a, b, c: a + (b + c),
        lambda a, b, c: sum([a, b, c]),
        lambda a, b, c: sum([b, c], Terms.of(a)),
        lambda a, b, c: Terms.of([a, b, c]),
        lambda a, b, c: Terms.of(a).__add__([b, c]),
        lambda a, b, c: Terms.of([a]) + Terms.of([b, c]),
        lambda a, b, c: 0 + (a + b) + c,
        lambda a, b, c: 1.0 * a + b * 1 + c,
    ],
)
def test_sums_are_the_same_however_they_are_written(build: Any) -> None:
    parts = HiddenMSE(), Labels(), HiddenMSE()
    terms = build(*parts)
    assert isinstance(terms, Terms)
    assert [term.objective for term in terms] == list(parts)
    assert names(terms) == ["hidden_mse", "labels", "hidden_mse_2"]
    assert [term.weight for term in terms] == [1.0, 1.0, 1.0]


def test_weights_multiply() -> None:
    term = 2 * (3.0 * Labels()) * 0.5
    assert isinstance(term, Term)
    assert term.weight == 3.0
    assert (4 * term.named("mine")).name == "mine"


def test_repeats_are_numbered_around_given_names() -> None:
    terms = Terms.of([HiddenMSE(), (1.0 * HiddenMSE()).named("hidden_mse_2"), HiddenMSE(), HiddenMSE()])
    assert names(terms) == ["hidden_mse", "hidden_mse_2", "hidden_mse_3", "hidden_mse_4"]
    assert terms[1].objective is not terms[2].objective


@pytest.mark.parametrize("name", ["soft_targets_2", "soft_targets_7", "labels", "labels_2", "soft-at-2"])
def test_a_given_name_is_kept(name: str) -> None:
    """Also one that looks like a number put there by us, and also through further sums."""
    given = (2.0 * SoftTargets()).named(name)
    for terms in (Terms.of(given) + HiddenMSE(), HiddenMSE() + given, given + HiddenMSE() + HiddenMSE()):
        assert next(term for term in terms if term.weight == 2.0).name == name


def test_two_given_names_must_differ() -> None:
    terms = [(1.0 * Labels()).named("mine"), (1.0 * SoftTargets()).named("mine")]
    with pytest.raises(DistillationError, match="two terms are named 'mine'"):
        Terms.of(terms)
    with pytest.raises(DistillationError, match="two terms are named 'mine'"):
        _ = terms[0] + terms[1]


def test_one_object_stands_in_one_term() -> None:
    objective = Labels()
    with pytest.raises(DistillationError, match="one objective object stands in two terms"):
        _ = objective + 2.0 * objective


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), True, "1", None])
def test_weights_are_finite_and_not_negative(weight: Any) -> None:
    with pytest.raises(DistillationError, match="the weight of 'labels' is"):
        Term(Labels(), weight)
    with pytest.raises(DistillationError, match="the weight of 'labels' is"):
        _ = 1e308 * (1e308 * Labels())


@pytest.mark.parametrize("name", ["a b", "a.b", "1st", "a/b"])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(DistillationError, match="is no name for a term; use letters"):
        (1.0 * Labels()).named(name)


@pytest.mark.parametrize("name", ["values", "keys", "items", "type", "training", "forward", "train", "_modules"])
def test_names_fit_into_a_module(name: str) -> None:
    """A module refuses them with a `KeyError` of its own, later."""
    with pytest.raises(KeyError):
        nn.ModuleDict({name: nn.Identity()})
    with pytest.raises(DistillationError, match=f"'{name}' is no name for a term: a module has"):
        (1.0 * Labels()).named(name)


@pytest.mark.parametrize("other", [5, None, object()])
def test_what_is_no_term_cannot_be_added(other: Any) -> None:
    with pytest.raises(DistillationError, match="no objective, no term"):
        _ = Labels() + other
    with pytest.raises(DistillationError, match="no objective, no term"):
        Terms.of(other)


@pytest.mark.parametrize("other", [1, 0.5, "a"])
def test_terms_are_added_to_nothing_else(other: Any) -> None:
    for right in (Labels(), 1.0 * Labels(), Terms.of(Labels())):
        with pytest.raises((DistillationError, TypeError)):
            _ = other + right


def test_a_list_must_hold_objectives() -> None:
    with pytest.raises(DistillationError, match="a term weighs an objective, not 'labels'"):
        Terms.of(["labels"])  # type: ignore[list-item]


@pytest.mark.parametrize("given", ["soft_targets", ["soft_targets"], SoftTargets, [SoftTargets]])
def test_a_name_and_a_class_are_told_how_to_become_an_objective(given: Any) -> None:
    named = "soft_targets" in given if isinstance(given, list) else given == "soft_targets"
    remedy = r"hf_distill\.objectives\.make\('soft_targets', {}\)" if named else r"by brackets: SoftTargets\(\)"
    with pytest.raises(DistillationError, match=remedy):
        Terms.of(given)


def test_is_a_sequence() -> None:
    terms = Labels() + SoftTargets()
    assert len(terms) == 2
    assert terms[0].name == "labels"
    assert [term.name for term in terms[1:]] == ["soft_targets"]
    assert Terms.of(terms) is terms
    assert list(Terms([])) == []
