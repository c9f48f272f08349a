"""Figures of measured rounds: ratios with intervals, a table, and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peers.catalogue import CATALOGUE
from peers.gradients import Likeness, likeness
from peers.measuring import Measured
from peers.workloads import Workload

BASES = ("floor", "loop", "hf_kd")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(values, (10_000, len(values))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def ratio(ours: Measured, base: Measured) -> dict[str, Any]:
    """Each round's median over its turns, ours over the base's turn; then the median over rounds."""
    by_round = [
        statistics.median(a / b for a, b in zip(round_ours, round_base, strict=True))
        for round_ours, round_base in zip(ours.rounds, base.rounds, strict=True)
    ]
    return {
        "median": statistics.median(by_round),
        "interval": interval(by_round),
        "range": (min(by_round), max(by_round)),
        "rounds": by_round,
    }


def row(name: str, found: Mapping[str, Measured]) -> dict[str, Any]:
    measured = found[name]
    seconds = statistics.median(second for steps in measured.rounds for second in steps)
    made: dict[str, Any] = {
        "milliseconds": 1000 * seconds,
        **measured.facts,
        "gflop_per_second": measured.facts["flops"] / seconds / 1e9,
        "same_loss": CATALOGUE[name].same_loss,
    }
    for base in BASES:
        if base in found:
            made[f"against_{base}"] = ratio(measured, found[base])
    if "floor" in found:
        made["memory_against_floor"] = measured.facts["extra_megabytes"] / found["floor"].facts["extra_megabytes"]
    if "loop" in found and CATALOGUE[name].same_loss:
        alike: Likeness = likeness(measured.gradient, found["loop"].gradient)
        made |= {"cosine": alike.cosine, "norm_ratio": alike.norm_ratio, "same_gradient": alike.same}
    return made


def rows(found: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    return {name: row(name, found) for name in found}


def gradient_cell(figures: Mapping[str, Any]) -> str:
    if not figures["same_loss"]:
        return "other loss"
    if "cosine" not in figures:
        return "not compared"
    mark = "" if figures["same_gradient"] else " **differs: does not count**"
    return f"{figures['cosine']:.8f}, {figures['norm_ratio']:.6f}{mark}"


def ratio_cell(figures: Mapping[str, Any], base: str) -> str:
    found = figures.get(f"against_{base}")
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['median']:.3f} [{low:.3f}, {high:.3f}]"


def table(workload: Workload, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown; GFLOP/s is FLOPs over the CPU seconds of a step."""
    head = ["", "CPU ms", *(f"/ {base}" for base in BASES), "extra MB (/ floor)", "operators", "GFLOP", "GFLOP/s"]
    lines = [[*head, "first gradient: cosine, norm ratio"], ["---"] * (len(head) + 1)]
    for name, each in figures.items():
        memory = f"{each['extra_megabytes']:.1f}"
        if "memory_against_floor" in each:
            memory += f" ({each['memory_against_floor']:.2f})"
        cells = [name, f"{each['milliseconds']:.1f}", *(ratio_cell(each, base) for base in BASES), memory]
        cells += [f"{each['operators']:.0f}", f"{each['flops'] / 1e9:.3f}", f"{each['gflop_per_second']:.1f}"]
        lines.append([*cells, gradient_cell(each)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
