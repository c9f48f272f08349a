"""How a `DistillationTrainer` evaluates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import nested_detach
from transformers.utils import ModelOutput

from hf_distill import checks
from hf_distill.distillation import Counts, Losses
from hf_distill.evaluator import Evaluation
from hf_distill.losses import at_least_float32
from hf_distill.objectives.response.loss_function import called
from hf_distill.training.repeated import HOLLOW, Repeated, emptied
from hf_distill.training.workers import told_of_workers


class Evaluating(Repeated):
    """Overrides `_wrap_model`, `evaluation_loop` and `prediction_step`: evaluation runs through the `Distillation`,
    and its loss is that of all labels, or of the objectives where there are none.
    """

    _totals: Tensor | None = None
    """`[losses, 2]`: sums and counts of an evaluation."""

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """Evaluation runs through the `Distillation`, too, and is never marked as prepared: a later `train()` must
        wrap it.
        """
        if training:
            wrapped: nn.Module = super()._wrap_model(model, training=training, dataloader=dataloader)
            return wrapped
        engine_owns_weights = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self.model_wrapped if engine_owns_weights and self.is_in_train else self.distillation

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's loop; the loss is the sum over all labels divided by their number, whatever the batches.

        A model without a head has no loss of its own; there it is the weighted sum of the objectives.
        """
        checks.fits_joined_evaluation(self, dataloader)
        prefix = kwargs.get("metric_key_prefix") or (args[2] if len(args) > 2 else "eval")
        self._totals = None
        with told_of_workers():
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if self._totals is not None:
            means = [total / count if count else float("nan") for total, count in self._totals.tolist()]
            named = zip(self.distillation.objectives, means, strict=False)
            loss = means[0] if self._has_answers else self.distillation.weights.total(dict(named))
            output.metrics[f"{prefix}_loss"] = loss
        return output

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """The task's own loss, or that of a `compute_loss_func`, and the student's outputs for one batch; the teacher
        does not run. `model` is the engine or, for a call outside an evaluation, the student.
        """
        if model is self.model:
            model = self.distillation
        inputs = self._prepare_inputs(inputs)
        if not self._has_answers:
            return self._evaluate_objectives(model, inputs), None, None
        with torch.no_grad(), self.accelerator.autocast():
            evaluation: Evaluation = model(inputs)
        if self.compute_loss_func is not None and evaluation.counts is not None:
            evaluation = self._by_function(evaluation, inputs, evaluation.counts)
        loss = self._add_to_totals(evaluation)
        if prediction_loss_only:
            return loss, None, None
        if ignore_keys is None:
            ignore_keys = getattr(self.model.config, "keys_to_ignore_at_inference", ["cache"])
        task = self.distillation.pair.task
        kept = tuple(
            task.evaluated(value, inputs) if key in task.logit_fields else value
            for key, value in evaluation.outputs.items()
            if key not in [*ignore_keys, "loss"]
        )
        logits = nested_detach(kept[0] if len(kept) == 1 else kept)
        labels = None
        if self.label_names and all(inputs.get(name) is not None for name in self.label_names):
            found = nested_detach(tuple(inputs[name] for name in self.label_names))
            labels = found[0] if len(found) == 1 else found
        if task.shown_fields:
            labels = logits.new_zeros(len(logits))  # the Trainer measures nothing where there are no labels
        return loss, logits, labels

    def _by_function(self, evaluation: Evaluation, inputs: Any, counts: Tensor) -> Evaluation:
        """The evaluation with the loss of a `compute_loss_func`: each example has its labels' share of the batch's.

        The function sees no rows that a sampler repeated to fill the last batch: its loss cannot be taken apart.
        """
        rows = self._own_rows(len(counts))
        if not rows:
            return evaluation._replace(sums=counts.new_zeros(counts.shape, dtype=torch.float32))
        outputs = evaluation.outputs
        if rows < len(counts):
            outputs = ModelOutput({name: _cut(value, rows) for name, value in outputs.items()})
        with torch.no_grad():
            loss = called(self.compute_loss_func, outputs, inputs["labels"][:rows], counts[:rows].sum())
        return evaluation._replace(sums=at_least_float32(loss) * counts)

    def _add_to_totals(self, evaluation: Evaluation) -> Tensor | None:
        if evaluation.sums is None or evaluation.counts is None:
            return None
        rows = torch.stack([evaluation.sums.double(), evaluation.counts.double()], 1)
        # without the rows that fill the last batch
        gathered = self.accelerator.gather_for_metrics(rows).sum(0, keepdim=True)
        self._totals = gathered if self._totals is None else self._totals + gathered
        return evaluation.sums.sum() / evaluation.counts.sum().clamp(min=1)

    def _evaluate_objectives(self, model: nn.Module, inputs: Any) -> Tensor | None:
        """The objectives' sums and counts of one batch, without rows that fill it."""
        inputs = self._without_repeated(inputs)
        teacher = self.teacher.activations(inputs) if self.teacher is not None and self._reads_teacher else None
        if teacher is None:
            return None
        counted = self._count(inputs)
        hollow = inputs.pop(HOLLOW, False)
        with torch.no_grad(), self.accelerator.autocast():
            losses: Losses = model(inputs, teacher, Counts((1.0,) * len(counted)))
        losses = emptied(losses) if hollow else losses
        counts = torch.stack([torch.as_tensor(count, device=losses.values.device) for count in counted])
        sums = self._sum_over_ranks(torch.stack([losses.values[: len(counts)].double(), counts.double()], 1))
        self._totals = sums if self._totals is None else self._totals + sums
        return losses.total


def _cut(value: Any, rows: int) -> Any:
    """The first rows of an output: a tensor, or a tuple of tensors."""
    return tuple(_cut(each, rows) for each in value) if isinstance(value, tuple) else value[:rows]
