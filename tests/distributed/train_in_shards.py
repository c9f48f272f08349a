"""Run by torchrun: trains with a student, a teacher or both in shards since they were loaded; saves each student."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification, PreTrainedModel, TrainingArguments

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets
from hf_distill.shards import in_shards
from tests import tiny

KINDS = ("student", "teacher", "both")
PLAN = {"bert.encoder.layer.*": "free_full_weight"}


def write_models(folder: Path) -> None:
    tiny.model("single_label", layers=2, hidden=32, seed=1).save_pretrained(folder / "from" / "student")
    tiny.model("single_label", layers=4, hidden=48, seed=2).save_pretrained(folder / "from" / "teacher")


def loaded(folder: Path, processes: int) -> PreTrainedModel:
    """The model of a folder, each layer cut into as many parts as there are processes."""
    if processes == 1:
        return BertForSequenceClassification.from_pretrained(folder)
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(fsdp_size=processes, fsdp_plan=PLAN)
    return BertForSequenceClassification.from_pretrained(folder, distributed_config=config)


def made_of(models: dict[str, PreTrainedModel], args: TrainingArguments) -> DistillationTrainer:
    """A projection learns beside the student."""
    torch.manual_seed(0)
    return DistillationTrainer(
        model=models["student"],
        teacher=models["teacher"],
        objectives=SoftTargets() + Labels() + HiddenMSE(layer_map="uniform", projection="shared"),
        args=args,
        train_dataset=tiny.rows("single_label"),
        eval_dataset=tiny.rows("single_label", 21, seed=3),
        data_collator=tiny.Pad(),
    )


def trainer_of(folder: Path, kind: str, processes: int = 1, **settings: Any) -> DistillationTrainer:
    """The optimizer is the default one, with a state to be kept."""
    arguments = {"optim": "adamw_torch_fused", "learning_rate": 1e-3, "max_grad_norm": 1.0, "adam_epsilon": 1e-3}
    args = tiny.arguments(**{**arguments, **settings})
    parts = {role: processes if kind in (role, "both") else 1 for role in ("student", "teacher")}
    models = {role: loaded(folder / "from" / role, number) for role, number in parts.items()}
    trainer = made_of(models, args)
    if processes > 1 and {role: in_shards(model) for role, model in models.items()} != {
        role: number > 1 for role, number in parts.items()
    }:
        raise SystemExit(f"{kind}: not in the shards that were asked for")
    return trainer


def trained(folder: Path, kind: str, processes: int = 1, **settings: Any) -> DistillationTrainer:
    trainer = trainer_of(folder, kind, processes, **settings)
    trainer.train()
    return trainer


def main() -> None:
    folder, size = Path(sys.argv[1]), {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    for kind in KINDS:
        trainer = trained(folder, kind, 2, **size)
        trainer.save_model(str(folder / kind))
        evaluated = trainer.evaluate()["eval_loss"]
        if trainer.is_world_process_zero():
            (folder / f"{kind}.eval_loss").write_text(str(evaluated))
    saving = {**size, "save_strategy": "steps", "save_steps": 2, "output_dir": str(folder / "run")}
    trained(folder, "student", 2, **saving)
    second = trainer_of(folder, "student", 2, **saving)
    second.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-2"))
    second.save_model(str(folder / "resumed"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
