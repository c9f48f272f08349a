"""Raw text as a run sees it: what is kept of a batch's outputs, and what they come to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EvalPrediction

from hf_distill.errors import NonFiniteLoss
from hf_distill.recipe import Recipe
from hf_distill.run.workloads import load_workload
from hf_distill.run.workloads.pretraining import PredictedWords
from hf_distill.tasks import IGNORED
from tests import tiny_runs

LABELS = torch.tensor([[IGNORED, 2, IGNORED, 0], [1, IGNORED, IGNORED, IGNORED]])
LOGITS = torch.tensor([0.0, 1.0, 3.0]).repeat(2, 4, 1)


def workload(folder: Path, task: str) -> PredictedWords:
    recipe: dict[str, Any] = {
        "schema": 1,
        "data": {"text": {"train": [{"files": [str(tiny_runs.write_text(folder / "a.txt", 9))]}], "task": task}},
        "student": {"model": "x"},
        "stages": [{"name": "a", "objectives": [{"labels": {}}]}],
    }
    found = load_workload(Recipe.from_dict(recipe))
    assert isinstance(found, PredictedWords)
    return found


def answers(found: PredictedWords, logits: torch.Tensor) -> Any:
    kept = found.reduce(logits, LABELS).numpy()
    rows = Dataset.from_dict({"input_ids": [[0], [0]]})
    prediction = EvalPrediction(predictions=kept, label_ids=LABELS.numpy())
    return found.answers("validation", rows, np.arange(2), prediction, ())


@pytest.mark.parametrize(("task", "wanted"), [("masked_lm", [2, 0, 1]), ("causal_lm", [2, 0])])
def test_words_are_scored_where_they_are_predicted(tmp_path: Path, task: str, wanted: list[int]) -> None:
    """A causal model is not asked for the first word of a row."""
    found = workload(tmp_path, task)
    score = found.score("validation", answers(found, LOGITS))
    normalizer = math.log(sum(math.exp(x) for x in (0.0, 1.0, 3.0)))
    losses = [normalizer - (0.0, 1.0, 3.0)[word] for word in wanted]
    assert score["accuracy"] == pytest.approx(wanted.count(2) / len(wanted))
    assert score["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)))


def test_nan_is_told_and_not_scored(tmp_path: Path) -> None:
    broken = LOGITS.clone()
    broken[0, 1] = torch.nan
    with pytest.raises(NonFiniteLoss, match="the predictions of 1 of 3 words are NaN"):
        answers(workload(tmp_path, "masked_lm"), broken)
