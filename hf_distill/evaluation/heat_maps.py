"""Pictures of tables: which classes are taken for which, how alike layers are, and where heads look. Needs matplotlib,
which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_distill.evaluation import canvas
from hf_distill.evaluation.canvas import INK, WIDTH, figure_maker, short
from hf_distill.evaluation.findings import Attention, Confusion, Likeness

COLOUR_MAP = "Blues"
MOST_NUMBERS = 16
"""Columns of a table in whose cells numbers can be read."""

FEW_CLASSES = 4


def confusion(found: Confusion) -> bytes:
    """A PNG with the confusion of each model, and the student's answers against the teacher's: the number of items in
    each cell, which is the darker the larger its share of the row.

    Errors: DistillationError if matplotlib is missing.
    """
    shown = [(str(role), "true class", f"{role}'s answer", table) for role, table in found.counts.items()]
    if found.between is not None:
        shown.append(("student against teacher", "teacher's answer", "student's answer", found.between))
    names = [short(name, 16) for name in found.classes]
    columns = min(len(shown), 4 if len(names) < FEW_CLASSES else 2)
    rows = -(-len(shown) // columns)
    side = WIDTH / columns
    make_figure, settings = figure_maker()
    with settings:
        figure = make_figure(figsize=(WIDTH, rows * (0.8 * side + 0.4)), layout="constrained")
        places = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (title, across, along, table) in zip(places, shown, strict=False):
            counts = np.asarray(table)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            _map(axes, shares, [[f"{count:,}" for count in row] for row in table])
            _ticks(axes, names, names)
            axes.set_title(title, loc="left")
            axes.set(ylabel=across, xlabel=along)
        for axes in places[len(shown) :]:
            axes.axis("off")
        return canvas.png(figure)


def likeness(found: Likeness, before: Likeness | None = None) -> bytes:
    """A PNG of the CKA of each layer of the student with each of the teacher, above it that before training.

    Errors: DistillationError if matplotlib is missing.
    """
    shown = [("after training", found)] if before is None else [("before training", before), ("after training", found)]
    height = 1.2 + 0.42 * min(len(found.cka), 32)
    make_figure, settings = figure_maker()
    with settings:
        figure = make_figure(figsize=(WIDTH, len(shown) * max(2.6, height)), layout="constrained")
        places = list(figure.subplots(len(shown), 1, squeeze=False).flat)
        for axes, (title, each) in zip(places, shown, strict=True):
            rows, columns = len(each.cka), len(each.cka[0])
            texts = [[f"{value:.2f}" for value in row] for row in each.cka]
            image = _map(axes, np.asarray(each.cka), texts if columns <= MOST_NUMBERS else None)
            _ticks(axes, _layers(rows), _layers(columns), turned=False)
            axes.set(ylabel="student's layer", xlabel=f"teacher's layer (linear CKA at {each.tokens:,} tokens)")
            if before is not None:
                axes.set_title(title, loc="left")
        figure.colorbar(image, ax=places, pad=0.01)
        return canvas.png(figure)


def attention(found: Attention) -> bytes:
    """A PNG with a row for each pair of layers: the student's map beside the teacher's, on one scale.

    Errors: DistillationError if matplotlib is missing.
    """
    names = [short(token, 14) for token in found.tokens]
    make_figure, settings = figure_maker()
    with settings:
        figure = make_figure(figsize=(WIDTH, 0.6 + 4.6 * len(found.pairs)), layout="constrained")
        places = figure.subplots(len(found.pairs), 2, squeeze=False)
        for pair, (left, right) in zip(found.pairs, places, strict=True):
            largest = max(np.max(pair.student), np.max(pair.teacher))
            for axes, table, who, layer in (
                (left, pair.student, "student", pair.student_layer),
                (right, pair.teacher, "teacher", pair.teacher_layer),
            ):
                image = _map(axes, np.asarray(table), None, largest)
                _ticks(axes, names, names)
                axes.set_title(f"{who}, layer {layer}", loc="left")
            figure.colorbar(image, ax=[left, right], pad=0.01)
        return canvas.png(figure)


def _layers(number: int) -> list[str]:
    return ["emb.", *map(str, range(1, number))]


def _map(axes: Any, table: Any, texts: Sequence[Sequence[str]] | None, largest: float = 1.0) -> Any:
    """Draws the cells, with their texts."""
    axes.grid(False)
    image = axes.imshow(table, cmap=COLOUR_MAP, vmin=0.0, vmax=max(largest, 1e-9), aspect="auto")
    size = 8 if len(table[0]) <= MOST_NUMBERS // 2 else 6
    for y, row in enumerate(texts or []):
        for x, text in enumerate(row):
            colour = "white" if table[y][x] > 0.6 * largest else INK
            axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=size)
    return image


def _ticks(axes: Any, rows: Sequence[str], columns: Sequence[str], turned: bool = True) -> None:
    size = 8 if len(rows) <= MOST_NUMBERS else 6
    many = turned and (len(columns) > FEW_CLASSES or max(map(len, columns)) > 9)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.set_xticks(range(len(columns)), columns, fontsize=size, rotation=90 if many else 0)
