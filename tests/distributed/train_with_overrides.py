"""Run by torchrun: trains with what users put in place of the Trainer's own; saves each rank's weights and logs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_distill import DistillationTrainer, HiddenMSE, Labels
from tests import tiny


def summed(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    return (
        nn.functional.cross_entropy(outputs.logits, labels, reduction="sum", label_smoothing=0.1) / num_items_in_batch
    )


class Penalised(DistillationTrainer):
    """Reads what the engine's forward gave."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = loss + 0.05 * outputs.logits.square().mean()
        return (loss, outputs) if return_outputs else loss


class Own(DistillationTrainer):
    """Calls the engine as it would call a model."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.3)
        return (loss, outputs) if return_outputs else loss


class Layered(DistillationTrainer):
    """Knows the student's parameters by name."""

    def create_optimizer(self, model=None):
        head = [p for name, p in self.model.named_parameters() if name.startswith("classifier.")]
        rest = [p for name, p in self.model.named_parameters() if name.startswith("bert.")]
        self.optimizer = torch.optim.SGD([{"params": rest, "lr": 0.01}, {"params": head, "lr": 0.2}])
        return self.optimizer


CASES = {
    "function": (DistillationTrainer, {"compute_loss_func": summed}),
    "outputs": (Penalised, {"objectives": Labels}),
    "own": (Own, {"objectives": Labels}),
    "optimizer": (Layered, {"objectives": lambda: Labels() + HiddenMSE(projection="shared")}),
}


def trained(case: str, **arguments: object) -> DistillationTrainer:
    """Four steps of SGD, and an evaluation of rows that do not divide by the processes."""
    torch.manual_seed(0)
    kind, given = CASES[case]
    given = {name: make() if name == "objectives" else make for name, make in given.items()}
    trainer = kind(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        args=tiny.arguments(per_device_eval_batch_size=3, **arguments),
        train_dataset=tiny.rows("single_label"),
        eval_dataset=tiny.rows("single_label", 11, seed=3),
        data_collator=tiny.Pad(),
        **given,
    )
    trainer.train()
    trainer.evaluate()
    return trainer


def main() -> None:
    folder = Path(sys.argv[1])
    for case in CASES:
        trainer = trained(case, per_device_train_batch_size=4)
        if trainer.accelerator.num_processes != 2:
            raise SystemExit("not two processes")
        state = {name: parameter.detach().clone() for name, parameter in trainer.distillation.named_parameters()}
        save_file(state, folder / f"{case}-{trainer.args.process_index}.safetensors")
        logged = [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row]
        (folder / f"{case}-{trainer.args.process_index}.json").write_text(json.dumps(logged))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
