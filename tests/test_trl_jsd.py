"""The generalised Jensen-Shannon divergence as TRL has it, on the values that it gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_distill import SoftTargets
from hf_distill.activations import Activations
from hf_distill.chunks import Rows, Sizes, ThroughHead
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "trl_jsd.json").read_text(encoding="utf-8"))
STUDENT, TEACHER = (torch.tensor(GOLDEN[side], dtype=torch.float64) for side in ("student", "teacher"))
LABELS = torch.tensor(GOLDEN["labels"])


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"beta={case['beta']}")
@pytest.mark.parametrize("in_chunks", [False, True])
def test_value_and_gradient_are_those_of_trl(case: dict[str, Any], in_chunks: bool) -> None:
    objective = SoftTargets(kind="jsd", beta=case["beta"], temperature=1.0)
    sides = (shape(num_logits=STUDENT.shape[-1]), shape(num_logits=STUDENT.shape[-1]))
    objective.bind(Pair.from_shapes(*sides, TASKS["causal_lm"]))
    batch = {"input_ids": LABELS.clamp(min=0), "labels": LABELS}
    leaf, number = STUDENT.clone().requires_grad_(), objective.count(batch, TASKS["causal_lm"])
    if in_chunks:
        mask = torch.zeros(LABELS.shape, dtype=torch.float64)
        mask[:, :-1] = objective.mask(batch)
        flat = TEACHER.flatten(0, 1)
        loss = ThroughHead(
            lambda states: states,
            lambda places: flat[places],
            [lambda logits, against, _: objective.compare(logits, against, None)],
            [1.0 / float(number)],
            [],
            [],
        )(leaf, Rows(mask.flatten().unsqueeze(0), Sizes(2, 2))).total
    else:
        loss = objective(Activations(logits=leaf), Activations(logits=TEACHER), batch) / number
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-6)
    torch.testing.assert_close(leaf.grad, torch.tensor(case["gradient"], dtype=torch.float64), rtol=0, atol=1e-6)
