"""Run by torchrun: trains with weights that vary and against a discriminator; saves each rank's weights and logs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_distill import DistillationTrainer, HiddenMSE, HolisticKD, Labels, Learned, Schedule, SoftTargets
from hf_distill.objectives import Term, Terms
from tests import tiny


def terms() -> Terms:
    """The teacher is left out by two of its terms in the end, and heard by none while the discriminator warms up."""
    return Terms.of(
        [
            Term(Labels(), Learned(0.1)),
            Term(SoftTargets(), Learned(0.1)),
            Schedule.early_stop(stop=0.5) * HiddenMSE(layer_map="uniform", projection="shared"),
            0.1 * HolisticKD(kind="hinge", width=8, learning_rate=0.05, warmup=0.25),
        ]
    )


def without_teacher() -> Terms:
    """No term reads the teacher in the second half, nor reaches the projection."""
    gone = Schedule.early_stop(2.0, stop=0.5)
    return Labels() + gone * SoftTargets() + gone * HiddenMSE(layer_map="uniform", projection="shared")


CASES = {"varied": terms, "alone": without_teacher}


def trained(case: str, **arguments: object) -> DistillationTrainer:
    """Four steps of SGD."""
    torch.manual_seed(0)
    trainer = DistillationTrainer(
        model=tiny.model("single_label", layers=2, hidden=32, seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=CASES[case](),
        args=tiny.arguments(**arguments),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


def main() -> None:
    folder = Path(sys.argv[1])
    for case in CASES:
        trainer = trained(case, per_device_train_batch_size=2, gradient_accumulation_steps=2)
        if trainer.accelerator.num_processes != 2:
            raise SystemExit("not two processes")
        state = {name: parameter.detach().clone() for name, parameter in trainer.distillation.named_parameters()}
        save_file(state, folder / f"{case}-{trainer.args.process_index}.safetensors")
        logged = [row for row in trainer.state.log_history if "loss" in row]
        (folder / f"{case}-{trainer.args.process_index}.json").write_text(json.dumps(logged))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
