"""How good a model is in each of its forms, on the rows that are reported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.evaluation.summary import RunSummary
from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.measuring import Answers, Role, by_length, key_of, summarize
from hf_distill.runs.workload import Workload
from hf_distill.search.budget import Cost
from hf_distill.search.forms import Ready

BATCH = 32


class Judge:
    """Models on the reported split of a recipe's data; agreement is with `teacher`, in float32."""

    def __init__(
        self,
        recipe: Recipe,
        workload: Workload,
        teacher: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.workload, self.split = workload, workload.reported_split
        self.collator = workload.collator(tokenizer)
        limits = models.limits(recipe, teacher)
        self.rows = workload.read(copy.deepcopy(tokenizer), limits, [self.split])[self.split]
        self.teacher = self.answers(teacher, teacher)

    def answers(self, model: PreTrainedModel, call: Callable[..., Any]) -> Answers:
        """What `call`, which is `model` in one of its forms, answers."""
        columns = self.workload.fit(model, "student")
        rows, order = by_length(self.workload.in_model_order(self.rows, columns))
        given = [name for name in rows.column_names if name in Anatomy.of(model).accepts - {"labels"}]
        found, plain = [], rows.select_columns(given)
        with torch.inference_mode():
            for first in range(0, len(plain), BATCH):
                items = [plain[i] for i in range(first, min(first + BATCH, len(plain)))]
                batch = {name: value.to(model.device) for name, value in self.collator(items).items()}
                found.append(call(**batch).logits.float().cpu().numpy())
        prediction = EvalPrediction(predictions=np.concatenate(found), label_ids=None)
        kept = self.workload.answers(self.split, rows, order, prediction, columns)
        scores = self.workload.score(self.split, kept)
        return Answers({self.split: kept}, {key_of(name, self.split): value for name, value in scores.items()})

    def summary(self, name: str, role: Role, made: Ready, cost: Cost) -> RunSummary:
        """What is reported of a model in a form."""
        return summarize(
            name,
            role,
            self.answers(made.model, made.call),
            self.workload,
            model=made.model,
            size_bytes=cost.size_bytes,
            teacher=None if role == "teacher" else self.teacher,
            latency=cost.latency,
            history=[],
        )
