"""What a card says of texts that were written while the student trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.hub.markdown import code, escaped
from hf_distill.hub.record import Record
from hf_distill.written_shares import STUDENT_SHARE, TEACHER_SHARE, writes_all


def on_policy(record: Record) -> list[str]:
    """Who wrote the texts that the student trained on, and how they were drawn; a paragraph for each stage whose texts
    are not the data's alone.

    A record may be anybody's: what is not said as it should be is shown as it is, or left out.
    """
    return [_paragraph(stage, settings) for stage, settings in _stages(record)]


def _stages(record: Record) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings, by the name of the stage where there are several; of a trainer without a recipe its own."""
    given: Any = (record.recipe or {}).get("stages")
    stages = [stage for stage in given if isinstance(stage, dict)] if isinstance(given, list) else []
    for stage in stages or [record.training_arguments]:
        settings = stage.get("on_policy")
        if isinstance(settings, dict):
            yield (str(stage.get("name", "")) if len(stages) > 1 else ""), settings


def _shown(value: Any) -> str:
    try:
        return f"{value:g}" if isinstance(value, int | float) else escaped(str(value))
    except OverflowError:  # a whole number that no float holds
        return escaped(str(value))


def _paragraph(stage: str, settings: Mapping[str, Any]) -> str:
    def told(name: str, default: float) -> str:
        return _shown(settings.get(name, default))

    where = f" in stage {code(stage)}" if stage else ""
    teacher = told("teacher_share", TEACHER_SHARE)
    by_teacher = "" if teacher == "0" else f", in the share {teacher} by the teacher"
    others = "" if writes_all(settings) else "; in the others they are those of the data"
    limits = "".join(
        f", of the {what.format(told(name, every))}"
        for name, every, what in (("top_k", 0, "{} likeliest tokens"), ("top_p", 1, "likeliest tokens of mass {}"))
        if told(name, every) != f"{every:g}"
    )
    temperature = told("temperature", 1)
    drawn = "the likeliest token each time" if temperature == "0" else f"drawn at temperature {temperature}{limits}"
    student = told("student_share", STUDENT_SHARE)
    return (
        f"On-policy{where} (GKD): in the share {student} of the steps the texts were written by "
        f"the student itself, as it was then, behind the prompts of the data{by_teacher}{others}. "
        f"Written texts are {drawn}, with {told('max_new_tokens', 128)} new tokens at most."
    )
