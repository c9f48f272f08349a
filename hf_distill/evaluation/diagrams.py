"""Pictures of how far answers can be trusted: reliability diagrams, and scores against the true ones. Needs
matplotlib, which is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_distill.evaluation import canvas
from hf_distill.evaluation.canvas import COLOURS, INK, WIDTH, figure_maker
from hf_distill.evaluation.findings import Reliability, Role, Scores


def reliability(found: Mapping[Role, Reliability]) -> bytes:
    """A PNG with a reliability diagram for each model (Niculescu-Mizil and Caruana, 2005, ICML): above, the share of
    right answers in each bin of confidence, which of a calibrated model lies on the diagonal; below, the share of
    items in each bin.

    Errors: DistillationError if matplotlib is missing.
    """
    make_figure, settings = figure_maker()
    with settings:
        figure = make_figure(figsize=(WIDTH, 4.6), layout="constrained")
        places = figure.subplots(2, len(found), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
        for (role, each), upper, lower, colour in zip(found.items(), *places, COLOURS, strict=False):
            _bins(upper, lower, each, colour)
            upper.set_title(f"{role}: calibration error {each.error:.3f}", loc="left")
        places[1][0].set_ylim(bottom=0)
        places[0][0].set_ylabel("share that is right")
        places[1][0].set_ylabel("share of items")
        return canvas.png(figure)


def _bins(upper: Any, lower: Any, found: Reliability, colour: str) -> None:
    bins = len(found.counts)
    filled = [bin_ for bin_, count in enumerate(found.counts) if count]
    middles = [(bin_ + 0.5) / bins for bin_ in filled]
    total = max(sum(found.counts), 1)
    look = {"width": 0.92 / bins, "color": colour}
    upper.bar(middles, [found.accuracy[bin_] for bin_ in filled], alpha=0.45, **look)
    upper.plot([found.confidence[b] for b in filled], [found.accuracy[b] for b in filled], color=colour, marker="o")
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle="--")
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    lower.bar(middles, [found.counts[bin_] / total for bin_ in filled], **look)
    lower.set_xlabel("confidence of the answer")
    upper.set_axisbelow(True)
    lower.set_axisbelow(True)


def scores(found: Scores) -> bytes:
    """A PNG with a panel for each model: its scores against the true ones, and the line on which they are equal.

    Errors: DistillationError if matplotlib is missing.
    """
    make_figure, settings = figure_maker()
    everything = np.concatenate([found.truth, *found.found.values()])
    ends = [float(everything.min()), float(everything.max())]
    with settings:
        figure = make_figure(figsize=(WIDTH, 4.0), layout="constrained")
        places = figure.subplots(1, len(found.found), squeeze=False, sharex=True, sharey=True)[0]
        for (role, values), axes, colour in zip(found.found.items(), places, COLOURS, strict=False):
            axes.plot(ends, ends, color=INK, linewidth=1.0, linestyle="--")
            axes.plot(found.truth, values, color=colour, marker="o", markersize=3, linestyle="", alpha=0.5)
            axes.set_title(role, loc="left")
            axes.set_xlabel("true score")
        places[0].set_ylabel("model's score")
        return canvas.png(figure)
