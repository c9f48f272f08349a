"""The models of the front, each measured once when everything was chosen, and put down."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_distill.errors import DataError
from hf_distill.evaluation.latency import Latency
from hf_distill.evaluation.summary import RunSummary
from hf_distill.runs.folder import read_json, write_json
from hf_distill.runs.measuring import Role
from hf_distill.search.budget import Cost, told
from hf_distill.search.clock import Clock
from hf_distill.search.forms import Form, ready
from hf_distill.search.judging import Judge

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """A trained model in a form: what is reported of it, and what it costs."""

    summary: RunSummary
    cost: Cost


class Points:
    """Models in their forms, in `points.json`. `judge` is made when the first that is missing is asked for."""

    def __init__(self, folder: Path, clock: Clock, judge: Callable[[], Judge]) -> None:
        self.folder, self.clock = folder, clock
        self._make_judge = judge
        self._judge: Judge | None = None
        self.path = folder / "points.json"
        self.known = _read(self.path)

    def point(self, name: str, role: Role, form: Form, model: Callable[[], PreTrainedModel]) -> Point:
        """A model in a form: its answers, time and size."""
        key = f"{role}: {name}"
        if key not in self.known:
            self._judge = self._judge or self._make_judge()
            place = self.folder / ".form"
            try:
                made = ready(model(), self.clock.tokenizer, form, self.clock.device, place)
                cost = self.clock.cost(made, form)
                self.known[key] = Point(self._judge.summary(name, role, made, cost), cost)
                logger.info("%s: %s", key, told(cost.amounts()))
            finally:
                shutil.rmtree(place, ignore_errors=True)
            write_json(self.path, {key: asdict(point) for key, point in self.known.items()})
        return self.known[key]


def _read(path: Path) -> dict[str, Point]:
    try:
        return {
            key: Point(_summary(each["summary"]), Cost.from_dict(each["cost"]))
            for key, each in (read_json(path) or {}).items()
        }
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no models of a search ({error}); remove it, and they are measured again."
        ) from error


def _summary(data: dict[str, Any]) -> RunSummary:
    interval, latency = data["interval"], data["latency"]
    made = {"interval": interval and tuple(interval), "latency": latency and Latency(**latency)}
    return RunSummary(**{**data, **made})
