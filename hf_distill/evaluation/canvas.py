"""What all pictures have in common: how a figure is made and saved without a display, its looks, and labels beside
lines. Needs matplotlib, which is optional."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hf_distill.errors import DistillationError
from hf_distill.evaluation.summary import one_line

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Told apart with every common kind of colour blindness (Okabe and Ito, 2008); lines differ in their dashes, too."""

INK = "#333333"
WIDTH = 11.0
"""Inches; every picture of a page is so wide."""

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


def figure_maker() -> tuple[Callable[..., Any], AbstractContextManager[None]]:
    """matplotlib's Figure, drawn without a display, and the settings to draw it in.

    Errors: DistillationError if matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DistillationError(
            f'The pictures of a report need matplotlib ({error}); install it: pip install "hf_distill[report]"'
        ) from error
    return Figure, matplotlib.rc_context(SETTINGS)


def png(figure: Any) -> bytes:
    """The figure as a file. Characters that matplotlib's own font lacks, as most of Asia's, are boxes on it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


def label(axes: Any, ends: Sequence[tuple[str, str, float, float]], gap: float = 0.085) -> None:
    """Writes names to the right of the axes, at the heights where their lines end, moved apart where they would
    overlap (to `gap`, a share of the height), with a thin line to each. An end is a name, a colour, x and y."""
    axes.get_xlim(), axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for _, _, x, y in ends]
    for (name, colour, x, y), height in zip(ends, apart(heights, gap), strict=True):
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


def apart(heights: Sequence[float], gap: float) -> list[float]:
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


def short(text: str, length: int = 32) -> str:
    """The text on one line, at most so long."""
    line = one_line(text)
    return line if len(line) <= length else line[: length - 1] + "…"
