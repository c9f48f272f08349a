"""Pictures of runs: how their losses went, what accuracy costs in time, and who leads. Needs matplotlib, which is
optional."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency
from hf_distill.evaluation.summary import RunSummary, machine, one_line, values

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Told apart with every common kind of colour blindness (Okabe and Ito, 2008); lines differ in their dashes, too."""

DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = {"teacher": "s", "student": "o", "control": "^"}
INK = "#333333"

LEADER = {"arrowstyle": "-", "linestyle": ":", "linewidth": 1.0, "relpos": (0.0, 0.5), "shrinkA": 1, "shrinkB": 2}

SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}


@dataclass(frozen=True)
class Curve:
    """A named line and its looks."""

    name: str
    points: list[tuple[float, float]]
    looks: Mapping[str, Any]


def losses(runs: Sequence[RunSummary], metric: str) -> bytes | None:
    """A PNG of the histories: above, the metric in evaluation and the learning rate of all runs; below, a row for each
    run with its objectives, unweighted beside weighted and summed. None if no run has a history.

    Errors: DistillationError if matplotlib is missing.
    """
    shown = [run for run in runs if run.history]
    if not shown:
        return None
    make_figure, settings = _matplotlib()
    with settings:
        figure = make_figure(figsize=(11, 2.9 * (1 + len(shown))), layout="constrained")
        panels = figure.subplots(1 + len(shown), 2, squeeze=False)
        _panel(panels[0][0], f"evaluation: {_short(metric)}", _evaluations(shown, metric))
        _panel(panels[0][1], "learning rate", _learning_rates(shown))
        for run, (left, right) in zip(shown, panels[1:], strict=True):
            name = _short(run.title)
            _panel(left, f"{name}: objectives, unweighted", _objectives(run.history), may_be_log=True)
            _panel(right, f"{name}: weighted, and their sum", _weighted(run.history), may_be_log=True)
        return _png(figure)


def accuracy_latency(runs: Sequence[RunSummary], metric: str) -> bytes | None:
    """A PNG with a point for each run whose latency was measured: the metric with its interval, and the time for a
    sentence with its quartiles. None if there is no such run.

    Errors: DistillationError if matplotlib is missing, or a run lacks the metric.
    """
    values(runs, metric)
    shown = [(run, run.latency) for run in runs if run.latency is not None]
    if not shown:
        return None
    make_figure, settings = _matplotlib()
    with settings:
        figure = make_figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots()
        ends = [_point(axes, run, latency, metric, index) for index, (run, latency) in enumerate(shown)]
        axes.set_xlim(left=0.0, right=1.05 * max(latency.high for _, latency in shown))
        axes.margins(y=0.15)
        if axes.get_ylim()[1] > 1 >= max(run.metrics[metric] for run, _ in shown):
            axes.set_ylim(top=1.005)
        where = "; ".join(dict.fromkeys(machine(latency) for _, latency in shown))
        axes.set_xlabel(f"milliseconds for a sentence, batch 1 (bar: quartiles)\n{where}")
        axes.set_ylabel(f"{_short(metric)} (bar: 95 % interval)")
        _label(axes, ends)
        return _png(figure)


@dataclass(frozen=True)
class Difference:
    """A method's lead over a control: the estimate, the ends of its interval, that of each seed, and what a step
    costs, as a ratio; None where that is not known."""

    name: str
    value: float
    low: float
    high: float
    singles: Sequence[float]
    cost: float | None


def differences(found: Sequence[Difference], title: str, cost_title: str) -> bytes:
    """A PNG with a line for each method, the best one on top: its lead with the interval and a mark for each seed, and
    beside it what a step costs.

    Errors: DistillationError if matplotlib is missing.
    """
    make_figure, settings = _matplotlib()
    ordered = sorted(found, key=lambda each: each.value)
    with settings:
        figure = make_figure(figsize=(11, 1.6 + 0.28 * len(ordered)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        for place, each in enumerate(ordered):
            left.plot([each.low, each.high], [place, place], color=COLOURS[0], linewidth=1.6)
            left.plot([each.value], [place], color=COLOURS[0], marker="o", markersize=6)
            left.plot(each.singles, [place] * len(each.singles), color=INK, marker="|", linestyle="")
            if each.cost is not None:
                right.barh([place], [each.cost], color=COLOURS[4])
        left.set_yticks(range(len(ordered)), [_short(each.name) for each in ordered])
        left.axvline(0.0, color=INK, linewidth=1.0)
        right.axvline(1.0, color=INK, linewidth=1.0)
        left.set_xlabel(f"{one_line(title)} (bar: 95 % interval, |: each seed)")
        right.set_xlabel(one_line(cost_title))
        return _png(figure)


def _matplotlib() -> tuple[Callable[..., Any], AbstractContextManager[None]]:
    """matplotlib's Figure, drawn without a display, and the settings to draw it in."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DistillationError(
            f'The pictures of a report need matplotlib ({error}); install it: pip install "hf_distill[report]"'
        ) from error
    return Figure, matplotlib.rc_context(SETTINGS)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


# ---- curves ----


def _evaluations(runs: Sequence[RunSummary], metric: str) -> list[Curve]:
    """The metric over the steps; several evaluation sets (`eval_<set>_<metric>`) are curves of their own."""
    ending = "_" + metric.removeprefix("eval_")
    found = []
    for run in runs:
        keys = [key for key in _keys(run.history, "eval_") if key.endswith(ending)]
        for key in keys:
            which = key.removeprefix("eval").removesuffix(ending).strip("_")
            found.append((f"{_short(run.title)} {which}".strip(), _series(run.history, key)))
    return [Curve(name, points, {**_looks(i), "marker": "o"}) for i, (name, points) in enumerate(found)]


def _learning_rates(runs: Sequence[RunSummary]) -> list[Curve]:
    return [Curve(_short(run.title), _series(run.history, "learning_rate"), _looks(i)) for i, run in enumerate(runs)]


def _objectives(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    evaluation = {"color": "black", "linewidth": 1.0, "linestyle": ":", "marker": "."}
    keys = [key for key in _keys(history, "eval_") if key.endswith("_loss")]
    curves = [Curve(_short(key.replace("eval_", "evaluation ")), _series(history, key), evaluation) for key in keys]
    return _terms(history, "objective/") + curves


def _weighted(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    total = {"color": "#a0a0a0", "linewidth": 4.0, "zorder": 1.5}  # below the terms: with one term they are the same
    return [*_terms(history, "weighted/"), Curve("total", _series(history, "loss"), total)]


def _terms(history: Sequence[Mapping[str, Any]], prefix: str) -> list[Curve]:
    keys = _keys(history, prefix)
    return [Curve(_short(key.removeprefix(prefix)), _series(history, key), _looks(i)) for i, key in enumerate(keys)]


def _looks(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.6}


def _keys(history: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for entry in history for key in entry if key.startswith(prefix)))


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Step and value of the entries that hold a finite one. Where a further stage starts, steps go on counting."""
    offset, points = 0.0, []
    for before, entry in pairwise([{}, *history]):
        if any(_number(entry, name) < _number(before, name) for name in ("step", "epoch")):
            offset += _number(before, "step")
        value = _number(entry, key)
        if math.isfinite(value):
            points.append((offset + _number(entry, "step"), value))
    return [point for point in points if math.isfinite(point[0])]


def _number(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


# ---- drawing ----


def _panel(axes: Any, title: str, curves: Sequence[Curve], may_be_log: bool = False) -> None:
    drawn = [curve for curve in curves if curve.points]
    axes.set_title(title, loc="left")
    if not drawn:
        axes.axis("off")
        axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes)
        return
    for curve in drawn:
        few = {"marker": "o"} if len(curve.points) == 1 else {}
        axes.plot(*zip(*curve.points, strict=True), **{"markersize": 4, **few, **curve.looks})
    heights = [value for curve in drawn for _, value in curve.points]
    if may_be_log and min(heights) > 0 and max(heights) > 30 * min(heights):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step")
    _label(axes, [(curve.name, curve.looks["color"], *curve.points[-1]) for curve in drawn])


def _point(axes: Any, run: RunSummary, latency: Latency, metric: str, index: int) -> tuple[str, str, float, float]:
    """Draws a run and its bars; returns what its label needs."""
    value, colour = run.metrics[metric], COLOURS[index % len(COLOURS)]
    x = latency.milliseconds_per_sentence
    axes.plot([latency.low, latency.high], [value, value], color=colour, marker="|", linewidth=1.5)
    if run.interval is not None:
        axes.plot([x, x], run.interval, color=colour, marker="_", linewidth=1.5)
    axes.plot([x], [value], color=colour, marker=MARKERS[run.role], markersize=8, zorder=3)
    return f"{_short(run.title)}: {value:.3f}, {x:.2f} ms", colour, x, value


def _label(axes: Any, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Writes names to the right of the axes, at the heights where their lines end, moved apart where they would
    overlap, with a thin line to each. An end is a name, a colour, x and y."""
    axes.get_xlim(), axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for _, _, x, y in ends]
    for (name, colour, x, y), height in zip(ends, _apart(heights, 0.085), strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={**LEADER, "color": colour},
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved so that neighbours are `gap` apart (less if there are too many) and all are in [0, 1]."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = [0.0] * len(heights)
    floor = 0.0
    for index in order:
        placed[index] = max(heights[index], floor)
        floor = placed[index] + gap
    ceiling = 1.0
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _short(text: str, length: int = 32) -> str:
    line = one_line(text)
    return line if len(line) <= length else line[: length - 1] + "…"
