"""Runs recipes: from teacher, data and stages to a student with its card, record and report."""

from hf_distill.runs.answering import predict_diagnostics
from hf_distill.runs.publishing import Publication, publish_run
from hf_distill.runs.reproducing import from_record
from hf_distill.runs.results import RunResult
from hf_distill.runs.running import run
from hf_distill.runs.writing_cache import cache_teacher
from hf_distill.runs.writing_targets import generate_targets

__all__ = [
    "Publication",
    "RunResult",
    "cache_teacher",
    "from_record",
    "generate_targets",
    "predict_diagnostics",
    "publish_run",
    "run",
]
