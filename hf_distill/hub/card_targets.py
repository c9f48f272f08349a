"""What a card says of texts that the teacher wrote before the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.hub.markdown import code, escaped
from hf_distill.hub.record import Record

LEARNED = {
    "best": "the best one of each row",
    "nearest": "of those of each row the one that is nearest to the data's own",
    "all": "all that were kept of each row",
}
"""What stages learn, as a recipe calls it."""


def targets(record: Record) -> list[str]:
    """Who wrote the texts that the student learned in place of the data's, how they were searched for, and what became
    of them; nothing where no stage learned such.

    A record may be anybody's: what is not said as it should be is shown as it is, or left out.
    """
    recipe: Mapping[str, Any] = record.recipe or {}
    given, teacher = recipe.get("stages"), recipe.get("teacher")
    stages = [stage for stage in given if isinstance(stage, dict)] if isinstance(given, list) else []
    learned = [(str(stage.get("name", "")), str(stage.get("targets", "reference"))) for stage in stages]
    learned = [(name, choice) for name, choice in learned if choice != "reference"]
    settings = teacher.get("generate") if isinstance(teacher, dict) else None
    if not learned or not isinstance(settings, dict):
        return []
    parts = [_stage(name if len(stages) > 1 else "", choice) for name, choice in learned]
    return [" ".join([*parts, *_search(recipe, settings), *_counts(record.texts)])]


def _stage(name: str, choice: str) -> str:
    where = f" in stage {code(name)}" if name else ""
    return f"Texts of the teacher{where}: learned is {LEARNED.get(choice, escaped(choice))}, not the data's own."


def _search(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """How texts were found; of sounds nothing is written, and the search has no length."""
    data = recipe.get("data")
    beams = f"by a search with {escaped(str(settings.get('beams', 5)))} beams"
    if isinstance(data, dict) and data.get("speech") is not None:
        return [f"The teacher heard them {beams}."]
    drawing = settings.get("drawing")
    if isinstance(drawing, dict):
        every = {"top_k": 0, "top_p": 1.0}
        kept = [f"{name} {drawing[name]}" for name in every if drawing.get(name, every[name]) != every[name]]
        law = ", ".join([f"temperature {drawing.get('temperature', 1.0)}", *kept])
        beams = f"by drawing their tokens at {escaped(law)}"
    most = escaped(str(settings.get("max_new_tokens", 128)))
    answers = isinstance(data, dict) and data.get("chat") is not None
    what = ", as answers to what stands before the assistant's last one, which alone is learned" if answers else ""
    return [f"The teacher wrote them before the training {beams}, with {most} new tokens at most{what}."]


def _counts(texts: Mapping[str, int]) -> list[str]:
    if not texts.get("written"):
        return []
    fallen = {what: number for what, number in texts.items() if number and what not in ("written", "kept")}
    others = [f"{number:,} {escaped(what)}" for what, number in fallen.items()]
    fell = f" ({', '.join(others)})" if others else ""
    return [f"Of {texts['written']:,} texts {texts.get('kept', 0):,} were kept{fell}."]
