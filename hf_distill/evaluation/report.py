"""The report of a run: tables, pictures, and one self-contained web page."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hf_distill.evaluation import figures
from hf_distill.evaluation.summary import RunSummary, cells, header, markdown_table, notes, one_line, table

__all__ = ["RunSummary", "markdown_table", "table", "write_report"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #ffffff; --rule: #cfcfcf; --faint: #595959; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #17191c; --rule: #464a50; --faint: #a9adb3; }
}
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; text-align: right; border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
th:first-child { text-align: left; }
tbody th { overflow-wrap: anywhere; }
.notes { color: var(--faint); font-size: 0.9rem; }
.picture { overflow-x: auto; background: #ffffff; border: 1px solid var(--rule); padding: 0.5rem; }
.picture img { display: block; width: 100%; min-width: 40rem; }
@media (max-width: 46rem) {
  thead { display: none; }
  table, tbody, tr, th, td { display: block; }
  tr { margin-bottom: 1.2rem; }
  td { display: flex; justify-content: space-between; gap: 1rem; }
  td::before { content: attr(data-head); color: var(--faint); text-align: left; }
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{table}
<p class="notes">{notes}</p>
{pictures}
</body>
</html>
"""


def write_report(output_dir: str | os.PathLike[str], runs: Sequence[RunSummary], metric: str) -> list[Path]:
    """Writes `report/losses.png`, `report/accuracy_latency.png` and `report.html`, and returns the paths written.

    A picture that would be empty (no history, no latency) is left out. The page holds the pictures and refers to
    nothing outside it. Everything is drawn before the first file is written, and each appears whole or not at all.

    Errors: DistillationError for no runs, a run that lacks the metric, or if matplotlib is missing.
    """
    page_table, folder = _html_table(runs, metric), Path(output_dir)
    drawn = [
        ("accuracy_latency.png", f"Latency and {one_line(metric)}", figures.accuracy_latency(runs, metric)),
        ("losses.png", "Losses and evaluation over the steps", figures.losses(runs, metric)),
    ]
    pictures = [(name, caption, png) for name, caption, png in drawn if png is not None]
    page = PAGE.format(
        title=escape(f"Distillation report: {one_line(metric)}"),
        style=STYLE,
        table=page_table,
        notes="<br>".join(map(escape, notes(runs))),
        pictures="\n".join(_html_picture(caption, png) for _, caption, png in pictures),
    )
    written = [write_whole(folder / "report" / name, png) for name, _, png in pictures]
    return [*written, write_whole(folder / "report.html", page.encode("utf-8"))]


def _html_table(runs: Sequence[RunSummary], metric: str) -> str:
    heads = [escape(head) for head in header(metric)]
    rows = []
    for name, *others in cells(runs, metric):
        data = (f'<td data-head="{h}">{escape(c)}</td>' for h, c in zip(heads[1:], others, strict=True))
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(data)}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table>"


def _html_picture(caption: str, png: bytes) -> str:
    data, text = base64.b64encode(png).decode("ascii"), escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<h2>{text}</h2>\n<div class="picture" tabindex="0">{image}</div>'


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file so that it holds its old content or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
