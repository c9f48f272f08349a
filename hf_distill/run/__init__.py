"""Runs recipes: from teacher, data and stages to a student with its card, record and report."""

from hf_distill.run.answering import predict_diagnostics
from hf_distill.run.results import RunResult
from hf_distill.run.running import Publication, run

__all__ = ["Publication", "RunResult", "predict_diagnostics", "run"]
