"""ULD and GOLD: against what TRL gave for the same inputs, and against loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.across import Across
from hf_distill.tasks import TASKS
from tests.shapes import shape

FILE = json.loads((Path(__file__).parents[1] / "golden" / "across_tokenizers.json").read_text(encoding="utf-8"))
TASK = TASKS["causal_lm"]
OURS, THEIRS = FILE["student_words"], FILE["teacher_words"]
EXACT = tuple((i, THEIRS.index(word)) for i, word in enumerate(OURS) if word in THEIRS)


def pair(**changes: Any) -> Pair:
    across = Across(exact=EXACT, text=((0, 0), (1, 1)))
    return Pair.from_shapes(shape(num_logits=7), shape(num_logits=9), TASK, **{"across": across, **changes})


def bound(name: str, settings: dict[str, Any]) -> Objective:
    made = objectives.make(name, settings)
    made.bind(pair())
    return made


def columns() -> dict[str, Tensor]:
    inputs = {name: torch.tensor(values) for name, values in FILE["inputs"].items()}
    inputs["attention_mask"] = torch.ones_like(inputs["labels"])
    inputs["teacher_attention_mask"] = torch.ones_like(inputs["teacher_labels"])
    return inputs


def evaluated(objective: Objective, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The mean over what it counts, and its gradient in the student's logits."""
    batch = columns()
    ours, theirs = (batch.pop(f"{side}_logits").to(dtype) for side in ("student", "teacher"))
    leaf = ours.requires_grad_()
    total = objective(Activations(logits=leaf), Activations(logits=theirs), batch)
    loss = total / objective.count(batch, TASK)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: case["id"])
def test_trl_gives_the_same(case: dict[str, Any], dtype: torch.dtype) -> None:
    loss, gradient = evaluated(bound(case["objective"], case["settings"]), dtype)
    rounding = FILE["about"]["tolerance"] if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), torch.tensor(case["loss"], dtype=torch.float64), rtol=0, atol=rounding)
    expected = torch.tensor(case["gradient"], dtype=torch.float64)
    assert expected.any()
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=rounding)
