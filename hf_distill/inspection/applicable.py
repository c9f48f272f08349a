"""Which of the registered objectives a pair of models can be trained with."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hf_distill import objectives
from hf_distill.errors import DistillationError
from hf_distill.inspection.binding import refusal
from hf_distill.objectives import Pair

PEERS = "it is between models that train together; in a recipe, teacher: {peers: {count: 2}}."


class Verdict(NamedTuple):
    """An objective by its name, and why it does not fit; empty where it does."""

    name: str
    refusal: str


def verdicts(pair: Pair) -> list[Verdict]:
    """Every registered objective with its default settings against a pair. Nothing is computed: what an objective
    learns is made on the meta device. Of several teachers, one that takes a single one is tried on the first.
    """
    return [Verdict(name, _refusal(name, pair)) for name in objectives.names()]


def _refusal(name: str, pair: Pair) -> str:
    kind = objectives.get(name)
    if kind.among_peers:
        return PEERS
    try:
        with torch.device("meta"):
            objective = objectives.make(name, {})
    except (DistillationError, TypeError) as error:
        return str(error)
    member = next(iter(pair.members)) if pair.members and not kind.takes_members else ""
    return refusal(objective, pair, member).removeprefix(f"{name}: ").removeprefix(f"objective {name!r} ")
