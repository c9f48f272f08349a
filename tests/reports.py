"""Made-up runs and findings for tests of reports."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from hf_distill.evaluation import parting
from hf_distill.evaluation.findings import Attention, AttentionPair, Findings, Likeness
from hf_distill.evaluation.latency import Latency
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.evaluation.summary import RunSummary


def timed(milliseconds: float = 9.1, device: str = "cpu", threads: int = 2) -> Latency:
    return Latency(milliseconds, milliseconds - 1, milliseconds + 2, 310.4, threads, device, 256)


def history(terms: tuple[str, ...], steps: int = 40) -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    for step in range(10, steps + 1, 10):
        values = {f"objective/{name}": 10.0 ** (index - step / 100) for index, name in enumerate(terms)}
        weighted = {key.replace("objective", "weighted"): 0.5 * value for key, value in values.items()}
        rate = {"learning_rate": 1e-4 * (1 - step / steps), "epoch": step / 20, "step": step}
        entries.append({"loss": sum(weighted.values()), **values, **weighted, **rate})
        if step % 20 == 0:
            entries.append({"eval_loss": 0.5, "eval_accuracy": 0.6 + step / 200, "epoch": step / 20, "step": step})
    return [*entries, {"train_runtime": 3.0, "train_loss": 1.0, "epoch": steps / 20, "step": steps}]


def summary(name: str = "student", role: str = "student", **changed: Any) -> RunSummary:
    settings: dict[str, Any] = {
        "metrics": {"accuracy": 0.8125, "f1": 0.8},
        "interval": (0.7874, 0.8351),
        "agreement": 0.9,
        "calibration_error": 0.0604,
        "parameters": 17_391_000,
        "size_bytes": 69_500_000,
        "latency": timed(4.8),
        "history": history(("soft_targets", "labels", "hidden_mse")),
    }
    return RunSummary(name=name, role=role, **{**settings, **changed})  # type: ignore[arg-type]


def three() -> list[RunSummary]:
    teacher = summary("teacher", "teacher", agreement=None, parameters=22_713_986, latency=timed(), history=[])
    control = summary("control", "control", metrics={"accuracy": 0.797}, interval=None, history=history(("labels",)))
    return [teacher, summary(), control]


def classified(classes: tuple[str, ...] = ("negative", "positive"), rows: int = 400, text: str = "a warm film") -> Any:
    """What was asked, and the answers of three models that are right in some nine of ten rows."""
    random = np.random.default_rng(0)
    truth = random.integers(0, len(classes), rows)

    def answered(share: float) -> Answered:
        other = (truth + random.integers(1, len(classes), rows)) % len(classes)
        said = np.where(random.random(rows) < share, truth, other)
        sure = 1 - random.random(rows) ** 2 * (1 - 1 / len(classes))
        return Answered(said, said == truth, sure, lambda row: classes[said[row]])

    asked = Asked(
        "rows", "classes", truth, classes, lambda row: f"{text} in row {row}", lambda row: classes[truth[row]]
    )
    return asked, {role: answered(share) for role, share in (("teacher", 0.93), ("student", 0.9), ("control", 0.8))}


def findings(classes: tuple[str, ...] = ("negative", "positive"), text: str = "a warm film") -> Findings:
    """Those of a classification, with the layers and the attention of models with 3 and 6 layers."""
    found = parting.found(*classified(classes, text=text))
    random = np.random.default_rng(1)
    tokens = ["[CLS]", "a", "warm", ",", "funny", "and", "won", "##der", "##ful", "film", "[SEP]"]

    def looks() -> list[list[float]]:
        drawn = random.dirichlet(np.full(len(tokens), 0.3), len(tokens))
        return [[float(value) for value in row] for row in drawn]

    pairs = [
        AttentionPair(student_layer=s, teacher_layer=2 * s, student=looks(), teacher=looks()) for s in range(1, 4)
    ]
    cka = [[1.0 / (1 + abs(2 * row - column)) for column in range(7)] for row in range(4)]
    likeness, attention = Likeness(cka=cka, tokens=1024), Attention(tokens=tokens, pairs=pairs)
    before = Likeness(cka=[[value / 2 for value in row] for row in cka], tokens=1024)
    return found.model_copy(update={"likeness": likeness, "likeness_before": before, "attention": attention})


RUN: dict[str, Any] = asdict(summary(history=[]))
"""A run as its results hold it."""
