"""Run by torchrun: trains with a student, a teacher or both in shards since they were loaded; saves each student."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification, PreTrainedModel, TrainingArguments

from hf_distill import DistillationError, DistillationTrainer, HiddenMSE, Labels, SoftTargets
from hf_distill.shards import in_shards
from tests import tiny

KINDS = ("student", "teacher", "both")
OF_TWO = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
"""The batches of each of two processes, where one has eight rows."""
BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "greater_is_better": True}
"""The highest loss is taken for the best, as the lowest one is the last."""
DESPITE = ("world_size", "arguments")
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


def made_of(models: dict[str, PreTrainedModel], args: TrainingArguments, **further: Any) -> DistillationTrainer:
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
        **further,
    )


def trainer_of(
    folder: Path, kind: str, processes: int = 1, despite: tuple[str, ...] = (), **settings: Any
) -> DistillationTrainer:
    """The optimizer is the default one, with a state to be kept."""
    arguments = {"optim": "adamw_torch_fused", "learning_rate": 1e-3, "max_grad_norm": 1.0, "adam_epsilon": 1e-3}
    args = tiny.arguments(**{**arguments, **settings})
    parts = {role: processes if kind in (role, "both") else 1 for role in ("student", "teacher")}
    models = {role: loaded(folder / "from" / role, number) for role, number in parts.items()}
    trainer = made_of(models, args, resume_despite=despite)
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
    folder, processes = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    if processes == 4:
        args = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
        go_on(trainer_of(folder, "both", 4, DESPITE, **args), folder / "run", "four-resumed")
    else:
        of_two(folder)
    torch.distributed.destroy_process_group()


def of_two(folder: Path) -> None:
    for kind in KINDS:
        trainer = trained(folder, kind, 2, **OF_TWO)
        trainer.save_model(str(folder / kind))
        evaluated = trainer.evaluate()["eval_loss"]
        if trainer.is_world_process_zero():
            (folder / f"{kind}.eval_loss").write_text(str(evaluated))
    saving = {**OF_TWO, "save_strategy": "steps", "save_steps": 2, "output_dir": str(folder / "run")}
    trained(folder, "both", 2, **saving)
    go_on(trainer_of(folder, "both", 2, **saving), folder / "run", "resumed")
    best = trained(folder, "student", 2, **{**saving, **BEST, "output_dir": str(folder / "best")})
    best.save_model(str(folder / "best"))
    refused = trainer_of(folder, "teacher", 2, **OF_TWO)  # each process would run it for its own share of the rows
    tell_of_refusal(folder / "cached", lambda: refused.cache_teacher(folder / "cache"))
    refused = trainer_of(folder, "student", 2, DESPITE, **OF_TWO)
    tell_of_refusal(folder / "read", lambda: refused.train(str(folder / "one" / "checkpoint-2")))


def go_on(trainer: DistillationTrainer, run: Path, name: str) -> None:
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-2"))
    trainer.save_model(str(run.parent / name))


def tell_of_refusal(path: Path, asked: Callable[[], Any]) -> None:
    try:
        asked()
    except DistillationError as error:
        path.write_text(str(error))


if __name__ == "__main__":
    main()
