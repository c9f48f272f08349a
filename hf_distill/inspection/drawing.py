"""Layer maps, drawn with letters."""

from __future__ import annotations

from collections.abc import Sequence

from hf_distill.inspection.layout import listed


def drawn(pairs: Sequence[tuple[int, int]], student_layers: int, teacher_layers: int) -> list[str]:
    """Both models as columns of layers, 0 the embeddings, with a line from each layer of the teacher to those of the
    student that learn from it.
    """
    learning: dict[int, list[int]] = {}
    for ours, theirs in pairs:
        learning.setdefault(theirs, []).append(ours)
    lines = ["  teacher       student"]
    for theirs in range(teacher_layers + 1):
        row = f"  {_name(theirs):>7}"
        if theirs in learning:
            row += f" -----> {listed([_name(ours) for ours in learning[theirs]], 6)}"
        lines.append(row)
    taught = {ours for ours, _ in pairs}
    alone = [layer for layer in range(1, student_layers + 1) if layer not in taught]
    if alone:
        lines.append(f"  of the student, {listed(alone, 12)} {'has' if len(alone) == 1 else 'have'} no partner")
    return lines


def _name(layer: int) -> str:
    return "embed" if layer == 0 else str(layer)
