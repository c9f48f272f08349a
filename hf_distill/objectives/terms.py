"""Weighted objectives: `5.0 * SoftTargets(temperature=2.0) + 2.0 * Labels()`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

from torch import nn

from hf_distill.errors import DistillationError
from hf_distill.objectives.weights import Weight, as_weight, product

if TYPE_CHECKING:
    from hf_distill.objectives.base import Objective

_MODULES = nn.ModuleDict()
"""Terms become entries of such a dictionary, which refuses the names of its own attributes."""


class Weighable(nn.Module):
    """What takes a weight and adds up to terms: every objective, and nothing else."""

    name: ClassVar[str] = ""

    def on(self, member: str) -> Term:
        """A term of weight 1 that learns from that one of several teachers."""
        return Term(cast("Objective", self), member=member)

    def __mul__(self, weight: Weight | str) -> Term:
        return Term(cast("Objective", self), weight)

    __rmul__ = __mul__

    def __add__(self, other: Objective | Term | Terms) -> Terms:
        return Terms.of(cast("Objective", self)) + other

    def __radd__(self, other: Any) -> Terms:
        total: Terms = other + Terms.of(cast("Objective", self))
        return total


class Term:
    """`weight * objective`, the weight a number, a `Schedule`, or learned (`Learned()`, or `"learned"`). It has a name
    of its own in logs, checkpoints and cards (`named(...)`), and of several teachers the one that it learns from
    (`on(...)`).
    """

    def __init__(self, objective: Objective, weight: Weight | str = 1.0, name: str = "", member: str = "") -> None:
        if not isinstance(objective, Weighable):
            raise DistillationError(f"a term weighs an objective, not {objective!r}.{_remedy(objective)}")
        if name and not name.replace("-", "_").isidentifier():
            raise DistillationError(f"{name!r} is no name for a term; use letters, digits, '_' and '-'.")
        if hasattr(_MODULES, name):
            raise DistillationError(f"{name!r} is no name for a term: a module has an attribute of that name.")
        self.objective, self.weight, self.name = objective, as_weight(weight, objective.name), name
        self.member = member

    def named(self, name: str) -> Term:
        """The same term under another name."""
        return Term(self.objective, self.weight, name, self.member)

    def on(self, member: str) -> Term:
        """The same term, which learns from that one of several teachers (`teachers.Ensemble`)."""
        return Term(self.objective, self.weight, self.name, member)

    def __mul__(self, weight: Weight | str) -> Term:
        given = as_weight(weight, self.objective.name)
        return Term(self.objective, product(self.weight, given, self.objective.name), self.name, self.member)

    __rmul__ = __mul__

    def __add__(self, other: Objective | Term | Terms) -> Terms:
        return Terms.of(self) + other

    def __radd__(self, other: Any) -> Terms:
        total: Terms = other + Terms.of(self)
        return total

    def __repr__(self) -> str:
        weight = f"{self.weight:g}" if isinstance(self.weight, float) else f"({self.weight})"
        return f"{weight} * {self.name or self.objective.name}" + (f" on {self.member}" if self.member else "")


class Terms(Sequence[Term]):
    """A list of terms with unique names: the objective's, with `_2`, `_3` … for repeats, unless given."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self._terms: list[Term] = []
        self._given = given = list(terms)
        taken = [term.name for term in given if term.name]
        for term in given:
            name = term.name or _free_name(term.objective.name, taken)
            if term.name and taken.count(name) > 1:
                raise DistillationError(f"two terms are named {name!r}; names must be unique.")
            if not term.name:
                taken.append(name)
            self._terms.append(Term(term.objective, term.weight, name, term.member))
        objectives = [id(term.objective) for term in self._terms]
        if len(set(objectives)) != len(objectives):
            raise DistillationError("one objective object stands in two terms; make two objects of it.")

    @classmethod
    def of(cls, terms: Objective | Term | Terms | Iterable[Objective | Term]) -> Terms:
        """Terms out of an objective (weight 1), a term, or a list of either."""
        if isinstance(terms, Terms):
            return terms
        if isinstance(terms, Weighable | Term):
            terms = [terms]
        if isinstance(terms, str) or not isinstance(terms, Iterable):
            raise DistillationError(f"{terms!r} is no objective, no term, and no list of them.{_remedy(terms)}")
        return cls(term if isinstance(term, Term) else Term(term) for term in terms)

    def __add__(self, other: Objective | Term | Terms) -> Terms:
        # Names that were not given are made anew, so that a + b + c equals Terms.of([a, b, c]).
        return Terms([*self._given, *Terms.of(other)._given])

    def __radd__(self, other: Any) -> Terms:
        if not isinstance(other, int) or other != 0:  # sum() starts at 0
            raise DistillationError(f"terms cannot be added to {other!r}.")
        return self

    @overload
    def __getitem__(self, index: int) -> Term: ...
    @overload
    def __getitem__(self, index: slice) -> list[Term]: ...
    def __getitem__(self, index: int | slice) -> Term | list[Term]:
        return self._terms[index]

    def __len__(self) -> int:
        return len(self._terms)

    def __iter__(self) -> Iterator[Term]:
        return iter(self._terms)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self._terms))


def _remedy(given: Any) -> str:
    """A sentence on how to make an objective of what was given in place of one."""
    if isinstance(given, str):
        return f" By its name an objective is made by hf_distill.objectives.make({given!r}, {{}})."
    if isinstance(given, type) and issubclass(given, Weighable):
        return f" It is the class; make an objective of it by brackets: {given.__name__}()."
    return ""


def _free_name(name: str, taken: list[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
