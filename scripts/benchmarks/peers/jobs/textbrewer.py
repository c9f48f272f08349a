"""TextBrewer, as its SST-2 notebook goes about it: texts mapped with `padding="max_length"`, batches in random order,
a plain `AdamW`, soft targets and labels, the teacher run in every step."""

from __future__ import annotations

import torch
from datasets import Dataset
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from peers.implementations.textbrewer import classifier_adaptor
from peers.jobs.job import LONGEST, TEMPERATURE, Job


def rows(job: Job) -> Dataset:
    tokenizer = job.tokenizer()

    def encode(texts: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return tokenizer(texts["sentence"], truncation=True, max_length=LONGEST, padding="max_length")

    encoded = Dataset.from_dict(job.training_texts()).map(encode, batched=True).rename_column("label", "labels")
    return encoded.with_format("torch", columns=["input_ids", "attention_mask", "labels"])


def run(job: Job) -> PreTrainedModel:
    torch.manual_seed(job.seed)
    teacher, student = job.model(job.teacher), job.model(job.start)
    loader = DataLoader(rows(job), shuffle=True, batch_size=job.batch)
    optimizer = torch.optim.AdamW(student.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    schedule = {"num_warmup_steps": int(job.warmup * job.steps), "num_training_steps": job.steps}
    distillation = DistillationConfig(
        temperature=TEMPERATURE, kd_loss_type="ce", kd_loss_weight=0.5 * TEMPERATURE**2, hard_label_weight=0.5
    )
    training = TrainingConfig(device="cpu", log_dir=None, output_dir=str(job.folder))
    distiller = GeneralDistiller(training, distillation, teacher, student, classifier_adaptor, classifier_adaptor)
    with distiller:
        distiller.train(
            optimizer,
            loader,
            num_epochs=job.epochs,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args=schedule,
        )
    return student
