"""Figures, one panel a workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def steps(workloads: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """CPU time of each implementation as a multiple of the floor's, with its interval; rows whose gradient differs are
    hatched."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(workloads), figsize=(3.2 * len(workloads), 3.6), squeeze=False)
    for panel, (title, found) in zip(panels[0], workloads.items(), strict=True):
        bars(panel, found["rows"])
        panel.set_title(title)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def bars(panel: Any, rows: Mapping[str, Mapping[str, Any]]) -> None:
    base = next(name for name in ("floor", "loop", "hf_kd", *rows) if name in rows)
    key = f"against_{base}"
    shown = {name: row[key] for name, row in rows.items() if key in row}
    values = [each["median"] for each in shown.values()]
    errors = [
        [value - each["interval"][0] for value, each in zip(values, shown.values(), strict=True)],
        [each["interval"][1] - value for value, each in zip(values, shown.values(), strict=True)],
    ]
    colours = ["tab:orange" if name == "hf_distill" else "tab:blue" for name in shown]
    drawn = panel.barh(list(shown), values, xerr=errors, color=colours)
    for name, bar in zip(shown, drawn, strict=True):
        if not rows[name].get("same_gradient", True):
            bar.set_hatch("//")
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.invert_yaxis()
    panel.set_xlabel(f"CPU time / {base}")
