"""The weights of the terms of one loss, at the step at hand."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hf_distill.errors import DistillationError
from hf_distill.objectives.terms import Term
from hf_distill.objectives.weights import Learned, Schedule, bounded, hold, learned_weight, uncertain
from hf_distill.parameter_groups import ParameterGroup

logger = logging.getLogger(__name__)


class Weighing:
    """What each term adds to the total: its mean times a number, which may follow a schedule, or as a learned weight
    says (`weights.py`).

    A learned weight's parameter is the objective's `log_variance`, so that it is trained, saved and handed on with
    what the objective learns. `numbers` are the weights of the step at hand that are no parameters; `set` puts them
    in place before each step.

    Raises: `DistillationError` for a single learned weight: it would only rescale the learning rate.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        listed = list(terms)
        self.given = {term.name: term.weight for term in listed}
        self._objectives = {term.name: term.objective for term in listed}
        learned = [term for term in listed if isinstance(term.weight, Learned)]
        if len(learned) == 1:
            raise DistillationError(
                f"the weight of {learned[0].name!r} is learned, and no other is: alone it would only rescale the "
                "learning rate. Have two terms or more learn theirs, or give it a number."
            )
        self.learned: tuple[str, ...] = tuple(term.name for term in learned)
        self.scheduled = tuple(term.name for term in listed if isinstance(term.weight, Schedule))
        for term in listed:
            fresh = nn.Parameter(torch.zeros(1)) if term.name in self.learned else None
            term.objective.log_variance = fresh
        zero = [term.name for term in learned if term.objective.reaches_zero]
        if zero:
            logger.warning(
                "%s can reach 0, where a learned weight grows as far as it may (74): the rest of the loss then hardly "
                "counts. Give such a term a number.",
                " and ".join(map(repr, zero)),
            )
        self.taught = tuple(term.name for term in listed if term.objective.needs_teacher)
        self.always_taught = False
        """Whether passes of the student follow from what the teacher shows, or are fed it: it then always runs."""
        self.set(0.0)

    @property
    def vary(self) -> bool:
        """Whether any weight is something else than a number for the whole run."""
        return bool(self.learned or self.scheduled)

    def set(self, progress: float) -> None:
        """Takes the weights for a step; `progress` is the share of the steps that are over, which objectives are told,
        too.
        """
        self.numbers = {
            name: weight.at(progress) if isinstance(weight, Schedule) else weight
            for name, weight in self.given.items()
            if not isinstance(weight, Learned)
        }
        for name, objective in self._objectives.items():
            objective.progress = progress
            if name in self.learned and objective.log_variance is not None:
                hold(objective.log_variance)

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher runs at this step: not where all terms that read it weigh 0 and there are others."""
        must = self.always_taught or len(self.taught) == len(self._objectives)
        return must or any(map(self._counts, self.taught))

    @contextmanager
    def only(self, name: str) -> Iterator[None]:
        """One term alone, with the weight 1."""
        numbers, learned = self.numbers, self.learned
        self.numbers, self.learned = {**dict.fromkeys(self.given, 0.0), name: 1.0}, ()
        try:
            yield
        finally:
            self.numbers, self.learned = numbers, learned

    def _counts(self, name: str) -> bool:
        """Whether anything trains by a term: its weight is not 0, or a part of it has a loss of its own."""
        return self.numbers.get(name, 1.0) > 0.0 or self._objectives[name].two_sided

    def factors(self) -> dict[str, float | Tensor]:
        """What each mean is multiplied by, learned weights without their gradient."""
        learned = {name: learned_weight(self._log_variance(name)).detach() for name in self.learned}
        return {name: learned[name] if name in learned else self.numbers[name] for name in self.given}

    def part(self, name: str, value: Tensor, divisor: Tensor | float, batches: Tensor | float) -> Tensor:
        """What a term's sum adds to the total; `batches` are those of the step, over all processes."""
        if name in self.learned:
            return uncertain(value / divisor, self._log_variance(name), batches)
        weight = self.numbers[name]
        return value / divisor if weight == 1.0 else value * (weight / divisor)

    def learning(self, name: str, value: Tensor, divisor: Tensor | float, batches: Tensor | float) -> Tensor:
        """What a sum adds besides, that is in the total with the learned weight as a constant (`factors`): the
        gradient of the weight, and its own cost.
        """
        log_variance = self._log_variance(name)
        weight = learned_weight(log_variance)
        return (weight - weight.detach()) * (value.detach() / divisor) + 0.5 * log_variance / batches

    def total(self, means: Mapping[str, float]) -> float:
        """The loss that the terms' means make at the weights at hand, on the host."""
        return sum(float(self.part(name, torch.tensor(mean), 1.0, 1.0)) for name, mean in means.items())

    def logged(self) -> dict[str, float]:
        """`weight/<term>` of the weights that vary, on the host."""
        factors = self.factors() if self.vary else {}
        return {f"weight/{name}": float(factors[name]) for name in (*self.scheduled, *self.learned)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The learned weights, each at its learning rate, and none with weight decay."""
        groups = []
        for name in self.learned:
            weight, log_variance = self.given[name], self._objectives[name].log_variance
            if isinstance(weight, Learned) and log_variance is not None:
                groups.append(ParameterGroup([log_variance], weight.learning_rate, 0.0))
        return groups

    def _log_variance(self, name: str) -> Tensor:
        log_variance = self._objectives[name].log_variance
        if log_variance is None:
            raise DistillationError(f"the weight of {name!r} is learned, and its parameter is gone.")
        return bounded(log_variance)
