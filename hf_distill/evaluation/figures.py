"""Pictures of runs: how their losses went, what accuracy costs in time and size, and who leads. Needs matplotlib,
which is optional."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hf_distill.evaluation import canvas
from hf_distill.evaluation.canvas import COLOURS, INK, WIDTH, figure_maker, label, short
from hf_distill.evaluation.summary import RunSummary, machine, one_line, values

DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = {"teacher": "s", "student": "o", "control": "^"}
TIME = "_runtime"
FEW = 10
"""Labels that a picture of the usual height has room for."""


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
    make_figure, settings = figure_maker()
    with settings:
        figure = make_figure(figsize=(WIDTH, 2.9 * (1 + len(shown))), layout="constrained")
        panels = figure.subplots(1 + len(shown), 2, squeeze=False)
        _overview(panels[0], shown, metric)
        for run, (left, right) in zip(shown, panels[1:], strict=True):
            name = short(run.title)
            _panel(left, f"{name}: objectives, unweighted", _objectives(run.history), may_be_log=True)
            _panel(right, f"{name}: weighted, and their sum", _weighted(run.history), may_be_log=True)
        return canvas.png(figure)


def progress(runs: Sequence[RunSummary], metric: str) -> bytes | None:
    """A PNG of the metric in evaluation and of the learning rate of all runs alone. None if no run has a history.

    Errors: DistillationError if matplotlib is missing.
    """
    shown = [run for run in runs if run.history]
    if not shown:
        return None
    make_figure, settings = figure_maker()
    with settings:
        figure = make_figure(figsize=(WIDTH, max(3.2, 0.24 * len(shown))), layout="constrained")
        _overview(figure.subplots(1, 2), shown, metric)
        return canvas.png(figure)


def _overview(panels: Sequence[Any], runs: Sequence[RunSummary], metric: str) -> None:
    _panel(panels[0], f"evaluation: {short(metric)}", _evaluations(runs, metric))
    _panel(panels[1], "learning rate", _learning_rates(runs))


@dataclass(frozen=True)
class Price:
    """What a run costs: `of` gives it with the ends of its bar, or None where it was not measured; `title` names it on
    the axis, and `in_words` at a point."""

    of: Callable[[RunSummary], tuple[float, float, float] | None]
    title: str
    in_words: Callable[[float], str]


def accuracy_latency(runs: Sequence[RunSummary], metric: str) -> bytes | None:
    """A PNG with a point for each run whose latency was measured: the metric with its interval, and the time for a
    sentence with its quartiles. None if there is no such run.

    Errors: DistillationError if matplotlib is missing, or a run lacks the metric.
    """
    where = "; ".join(dict.fromkeys(machine(run.latency) for run in runs if run.latency is not None))
    title = f"milliseconds for a sentence, batch 1 (bar: quartiles)\n{where}"
    return _trade_off(runs, metric, Price(_latency, title, lambda x: f"{x:.2f} ms"))


def accuracy_size(runs: Sequence[RunSummary], metric: str) -> bytes | None:
    """The same with the size on disk."""
    return _trade_off(runs, metric, Price(_size, "size on disk, MB", lambda x: f"{x:.3g} MB"))


def accuracy_training_time(runs: Sequence[RunSummary], metric: str) -> bytes | None:
    """The same with the time that training took, of all its stages; of one that was resumed, since the last start."""
    return _trade_off(runs, metric, Price(_training_time, "minutes of training", lambda x: f"{x:.3g} min"))


def _latency(run: RunSummary) -> tuple[float, float, float] | None:
    latency = run.latency
    return None if latency is None else (latency.milliseconds_per_sentence, latency.low, latency.high)


def _size(run: RunSummary) -> tuple[float, float, float] | None:
    size = run.size_bytes / 1e6
    return (size, size, size) if size else None


def _training_time(run: RunSummary) -> tuple[float, float, float] | None:
    found = [_number(entry, "train_runtime") for entry in run.history]
    minutes = sum(value for value in found if math.isfinite(value)) / 60
    return (minutes, minutes, minutes) if minutes else None


def _trade_off(runs: Sequence[RunSummary], metric: str, price: Price) -> bytes | None:
    values(runs, metric)
    priced = [(run, price.of(run)) for run in runs]
    shown = [
        (run, found)
        for run, found in priced
        if found is not None and all(map(math.isfinite, (run.metrics[metric], *found)))
    ]
    if not shown:
        return None
    make_figure, settings = figure_maker()
    with settings:
        height = 4.6 if len(shown) <= FEW else 1.2 + 0.34 * len(shown)
        figure = make_figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        ends = [_point(axes, run, found, metric, index, price) for index, (run, found) in enumerate(shown)]
        axes.set_xlim(left=0.0, right=1.05 * max(high for _, (_, _, high) in shown))
        axes.margins(y=0.15)
        if axes.get_ylim()[1] > 1 >= max(run.metrics[metric] for run, _ in shown):
            axes.set_ylim(top=1.005)
        axes.set_xlabel(price.title)
        axes.set_ylabel(f"{short(metric)} (bar: 95 % interval)")
        label(axes, ends, gap=0.39 / height)
        return canvas.png(figure)


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
    """A PNG with a line for each method, the first one on top: its lead with the interval and a mark for each seed,
    and beside it what a step costs.

    Errors: DistillationError if matplotlib is missing.
    """
    make_figure, settings = figure_maker()
    ordered = found[::-1]  # places rise from the first
    with settings:
        figure = make_figure(figsize=(WIDTH, 1.6 + 0.28 * len(ordered)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        for place, each in enumerate(ordered):
            left.plot([each.low, each.high], [place, place], color=COLOURS[0], linewidth=1.6)
            left.plot([each.value], [place], color=COLOURS[0], marker="o", markersize=6)
            left.plot(each.singles, [place] * len(each.singles), color=INK, marker="|", linestyle="")
            if each.cost is not None:
                right.barh([place], [each.cost], color=COLOURS[4])
        left.set_yticks(range(len(ordered)), [short(each.name) for each in ordered])
        left.set_ylim(-0.7, len(ordered) - 0.3)
        right.set_axisbelow(True)
        left.axvline(0.0, color=INK, linewidth=1.0)
        right.axvline(1.0, color=INK, linewidth=1.0)
        left.set_xlabel(f"{one_line(title)} (bar: 95 % interval, |: each seed)")
        right.set_xlabel(one_line(cost_title))
        return canvas.png(figure)


# ---- curves ----


def _evaluations(runs: Sequence[RunSummary], metric: str) -> list[Curve]:
    """The metric over the steps; several evaluation sets (`eval_<set>_<metric>`) are curves of their own."""
    ending = "_" + metric.removeprefix("eval_")
    found = []
    for run in runs:
        keys = _keys(run.history, "eval_")
        for place in dict.fromkeys(["eval", *_timed(keys)]):
            which = place.removeprefix("eval").strip("_")
            if place + ending in keys:
                found.append((f"{short(run.title)} {which}".strip(), _series(run.history, place + ending)))
    return [Curve(name, points, {**_looks(i), "marker": "o"}) for i, (name, points) in enumerate(found)]


def _timed(keys: Sequence[str]) -> list[str]:
    """What names of values of an evaluation set begin with: each set has a time, which tells it from the metrics whose
    names end alike (`eval_HasAns_f1`)."""
    return [key.removesuffix(TIME) for key in keys if key.endswith(TIME)]


def _learning_rates(runs: Sequence[RunSummary]) -> list[Curve]:
    return [Curve(short(run.title), _series(run.history, "learning_rate"), _looks(i)) for i, run in enumerate(runs)]


def _objectives(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    evaluation = {"color": "black", "linewidth": 1.0, "linestyle": ":", "marker": "."}
    keys = [key for key in _keys(history, "eval_") if key.endswith("_loss")]
    curves = [Curve(short(key.replace("eval_", "evaluation ")), _series(history, key), evaluation) for key in keys]
    return _terms(history, "objective/") + curves


def _weighted(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    total = {"color": "#a0a0a0", "linewidth": 4.0, "zorder": 1.5}  # below the terms: with one term they are the same
    return [*_terms(history, "weighted/"), Curve("total", _series(history, "loss"), total)]


def _terms(history: Sequence[Mapping[str, Any]], prefix: str) -> list[Curve]:
    keys = _keys(history, prefix)
    return [Curve(short(key.removeprefix(prefix)), _series(history, key), _looks(i)) for i, key in enumerate(keys)]


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
    if not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        return math.nan
    return float(value)


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
    label(axes, [(curve.name, curve.looks["color"], *curve.points[-1]) for curve in drawn])


def _point(
    axes: Any, run: RunSummary, found: tuple[float, float, float], metric: str, index: int, price: Price
) -> tuple[str, str, float, float]:
    """Draws a run and its bars; returns what its label needs."""
    value, colour, (x, low, high) = run.metrics[metric], COLOURS[index % len(COLOURS)], found
    axes.plot([low, high], [value, value], color=colour, marker="|", linewidth=1.5)
    if run.interval is not None:
        axes.plot([x, x], run.interval, color=colour, marker="_", linewidth=1.5)
    axes.plot([x], [value], color=colour, marker=MARKERS[run.role], markersize=8, zorder=3)
    return f"{short(run.title)}: {value:.3f}, {price.in_words(x)}", colour, x, value
