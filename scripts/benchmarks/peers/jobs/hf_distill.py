"""hf_distill: batches of similar lengths, the teacher run once over the texts, its logits kept on the disk."""

from __future__ import annotations

from typing import Any

from transformers import DataCollatorWithPadding, PreTrainedModel

from hf_distill import DistillationTrainer, Labels, SoftTargets
from peers.jobs import hf_trainer
from peers.jobs.job import LONGEST, TEMPERATURE, Job


def run(job: Job, **more: Any) -> PreTrainedModel:
    tokenizer = job.tokenizer()
    trainer = DistillationTrainer(
        model=job.model(job.start),
        teacher=job.model(job.teacher),
        objectives=0.5 * SoftTargets(temperature=TEMPERATURE) + 0.5 * Labels(),
        args=hf_trainer.arguments(
            job, train_sampling_strategy="group_by_length", per_device_eval_batch_size=128, **more
        ),
        train_dataset=hf_trainer.rows(job, tokenizer),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.cache_teacher(job.folder / "teacher", max_length=LONGEST)
    trainer.train()
    trainer.save_model()
    return trainer.model
