"""What candidates cost on this machine, each measured once and put down."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from hf_distill.errors import DataError, DistillationError
from hf_distill.runs.folder import read_json, write_json
from hf_distill.search.budget import Cost
from hf_distill.search.clock import Clock
from hf_distill.search.forms import Form, ready
from hf_distill.search.shapes import Shape

logger = logging.getLogger(__name__)


class Bench:
    """The costs of students that are not trained yet, in `costs.json`; what stands there is not measured again.

    A form in which one cannot be had is in `refused`, with the reason, and not tried with others.
    """

    def __init__(self, clock: Clock, folder: Path) -> None:
        self.clock, self.folder = clock, folder
        self.path = folder / "costs.json"
        self.known, self.refused = _read(self.path)

    def measured(self, shape: Shape, form: Form) -> Cost | None:
        """What is known already."""
        return self.known.get((shape.name, form.name))

    def cost(self, shape: Shape, form: Form) -> Cost | None:
        """The cost of a student in a form; None where it cannot be had in it."""
        key = shape.name, form.name
        if key not in self.known and form.name not in self.refused:
            try:
                self.known[key] = self._measure(shape, form)
            except DistillationError as error:
                logger.warning("left out: %s: %s", form.name, error)
                self.refused[form.name] = str(error)
            self._write()
        return self.known.get(key)

    def _measure(self, shape: Shape, form: Form) -> Cost:
        place = self.folder / ".bench"
        try:
            made = ready(shape.model(self.clock.teacher), self.clock.tokenizer, form, self.clock.device, place)
            cost = self.clock.cost(made, form)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        share = cost.amounts()["latency_share"]
        milliseconds = cost.latency.milliseconds_per_sentence
        logger.info("%s, %s: %.3g ms for a sentence, %.3g of the teacher", shape.name, form.name, milliseconds, share)
        return cost

    def _write(self) -> None:
        costs = [{"model": name, "form": form, **asdict(cost)} for (name, form), cost in self.known.items()]
        write_json(self.path, {"costs": costs, "refused": self.refused})


def _read(path: Path) -> tuple[dict[tuple[str, str], Cost], dict[str, str]]:
    """The costs, and the forms that cannot be had."""
    found = read_json(path) or {"costs": [], "refused": {}}
    try:
        known = {(each.pop("model"), each.pop("form")): Cost.from_dict(each) for each in found["costs"]}
        return known, dict(found["refused"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} holds no costs of models ({error}); remove it, and they are measured again."
        ) from error
