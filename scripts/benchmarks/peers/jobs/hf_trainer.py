"""The plain Trainer: the loss in `compute_loss`, `DataCollatorWithPadding`, random order, the teacher in every
step."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer, TrainingArguments

from peers.jobs.job import LONGEST, TEMPERATURE, Job


def arguments(job: Job, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(job.folder),
        seed=job.seed,
        use_cpu=True,
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch,
        learning_rate=job.learning_rate,
        weight_decay=job.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=int(job.warmup * job.steps),
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )


def rows(job: Job, tokenizer: Any) -> Dataset:
    def encode(texts: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return tokenizer(texts["sentence"], truncation=True, max_length=LONGEST)

    return Dataset.from_dict(job.training_texts()).map(encode, batched=True, remove_columns=["sentence"])


class HandWritten(Trainer):
    teacher: nn.Module

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        labels = inputs.pop("labels")
        with torch.no_grad():
            theirs = self.teacher(**inputs).logits
        ours = model(**inputs).logits
        log_q = functional.log_softmax(ours / TEMPERATURE, -1)
        kl = functional.kl_div(log_q, functional.softmax(theirs / TEMPERATURE, -1), reduction="batchmean")
        return 0.5 * functional.cross_entropy(ours, labels) + 0.5 * TEMPERATURE**2 * kl


def run(job: Job) -> PreTrainedModel:
    tokenizer = job.tokenizer()
    trainer = HandWritten(
        model=job.model(job.start),
        args=arguments(job),
        train_dataset=rows(job, tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.teacher = job.model(job.teacher).eval()
    trainer.train()
    trainer.save_model()
    return trainer.model
