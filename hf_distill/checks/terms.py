"""What the terms ask of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_distill.activations import Needs
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.terms import Terms
from hf_distill.passes import Kind, same_table
from hf_distill.teachers import Teacher

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer


def has_peers(terms: Terms, teacher: Teacher | None) -> None:
    """Refuses terms between models that train together where no other model trains."""
    lonely = [term.name for term in terms if term.objective.among_peers]
    if lonely and (teacher is None or teacher.alongside is None):
        found = "there is no teacher" if teacher is None else f"the teacher is a {type(teacher).__name__}"
        raise IncompatiblePair(
            f"objective {lonely[0]!r} is between models that train together, and {found}; give teacher=Peers([…]), in "
            "a recipe `teacher: {peers: {count: 2}}`."
        )


def fits_arguments(args: Any, needs: Needs) -> None:
    """Refuses training arguments that would falsify what the objectives read."""
    read = {signal.field for signal in needs.student}
    if args.use_liger_kernel and read & {"logits", "start_logits", "end_logits"}:
        raise DistillationError("use_liger_kernel hides the logits that the objectives read; leave it off.")
    embeddings = any(signal.field == "embeddings" or signal.layer == 0 for signal in needs.student)
    if args.neftune_noise_alpha is not None and embeddings:
        raise DistillationError(
            "neftune_noise_alpha adds noise to the student's embeddings, which an objective compares with the "
            "teacher's; leave one of them out."
        )


def fits_steps(trainer: BoundTrainer, steps: int) -> None:
    """Refuses a training that is too short for what an objective does on the way."""
    distillation = trainer.distillation
    for name, objective in zip(distillation.objectives, distillation.terms(), strict=True):
        if steps < objective.smallest_steps:
            raise DistillationError(
                f"objective {name!r} goes through {objective.smallest_steps} parts of the training, which has {steps} "
                "steps, so that some would be empty. Raise num_train_epochs or max_steps, or ask it for fewer."
            )


def fits_passes(trainer: BoundTrainer, sharded: bool) -> None:
    """Refuses passes over embeddings that an engine holds in shards, models that do not share the space in which an
    objective compares or moves them, and partners that a batch has no room for.
    """
    distillation = trainer.distillation
    for name, objective in zip(distillation.objectives, distillation.terms(), strict=True):
        embeds = any(isinstance(s.source, Kind) and s.source.embeds for s in objective.needs().student)
        if sharded and embeds:
            raise DistillationError(
                f"objective {name!r} changes or differentiates the student's token embeddings, which FSDP, DeepSpeed "
                "and a student loaded in shards hold in parts. Train in one process or with DDP."
            )
        if objective.feeds and (sharded or _recomputes(trainer)):
            what = "its parameters are in shards" if sharded else "checkpointing would run them once more without that"
            raise DistillationError(
                f"objective {name!r} changes what the student's layers give in its main pass, and {what}. Train in "
                "one process or with DDP, and without checkpointing of activations."
            )
        if objective.batching is not None and trainer.tokens_per_batch is not None:
            raise DistillationError(
                f"objective {name!r} has each row bring a partner, and tokens_per_batch would not count the partner's "
                "cells; set per_device_train_batch_size instead."
            )
        teacher = trainer.teacher if objective.same_embeddings else None
        if teacher is not None and not same_table(Anatomy.of(trainer.model), teacher.anatomy):
            raise IncompatiblePair(
                f"objective {name!r} compares or moves both models in the space of their token embeddings, and the "
                "student looks tokens up in another table than its teacher. Take a student with the teacher's "
                "embeddings (students.from_layers), or a setting that does not need them (space='token')."
            )


def _recomputes(trainer: BoundTrainer) -> bool:
    """Whether layers run once more in the backward pass, by the arguments or because the model itself was told; the
    argument has another name from transformers 5.24 on.
    """
    asked = getattr(trainer.args, "activation_checkpointing", None) or trainer.args.gradient_checkpointing
    return bool(asked or getattr(trainer.model, "is_gradient_checkpointing", False))
