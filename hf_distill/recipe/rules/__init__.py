"""What the parts of a recipe demand of each other.

The rules read plain data, so that they speak up also when something else is wrong; what has the wrong shape they pass
over, as the sections tell that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.recipe.problems import Problem
from hf_distill.recipe.rules.across import across
from hf_distill.recipe.rules.alternatives import exactly_one
from hf_distill.recipe.rules.answers import prompts_alone
from hf_distill.recipe.rules.data import augmented, copies, rows, sentences
from hf_distill.recipe.rules.kept import cached, targets
from hf_distill.recipe.rules.models import made, named
from hf_distill.recipe.rules.on_policy import on_policy
from hf_distill.recipe.rules.progressive import by_layer
from hf_distill.recipe.rules.stages import adapters, chains, plain, quantized
from hf_distill.recipe.rules.teacher import held, kinds, needed, on
from hf_distill.recipe.rules.text import budgets, raw


def broken(data: Mapping[str, Any]) -> list[Problem]:
    """The rules that the data breaks."""
    of_rows, of_models = (copies, rows, sentences, raw, augmented), (named, made, needed, kinds, held, cached, across)
    of_stages = (plain, chains, quantized, adapters, on, by_layer, budgets, targets, on_policy, prompts_alone)
    checks = (exactly_one, *of_rows, *of_models, *of_stages)
    return [problem for check in checks for problem in check(data)]
