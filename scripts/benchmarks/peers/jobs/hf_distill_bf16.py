"""hf_distill with `bf16=True`: autocast of student and teacher."""

from __future__ import annotations

from transformers import PreTrainedModel

from peers.jobs import hf_distill
from peers.jobs.job import Job


def run(job: Job) -> PreTrainedModel:
    return hf_distill.run(job, bf16=True)
