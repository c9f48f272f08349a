"""What of a teacher is written down: what it shows of the rows, and the texts it writes for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.recipe.problems import Problem
from hf_distill.recipe.rules.reading import mappings, section_of
from hf_distill.recipe.rules.teacher import WITHOUT_MODEL

REFERENCE = "reference"
"""The targets of the data, as what a stage learns."""
WEIGH_ALL = {"nbest_kd", "ctc_nbest_kd"}
"""Objectives that read all that a teacher writes for a row."""
OF_TEXTS = {"max_new_tokens": 128, "length_penalty": 1.0, "filters": None, "drawing": None}
"""What of a search is about texts that are written, and not about sounds that are heard, with its defaults."""


def cached(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What a teacher shows of a row is written down once, so the row must be the same every time."""
    teacher = section_of(data, "teacher")
    kind = next((key for key in ("cache", "cached") if teacher.get(key) is not None), None)
    if kind is None:
        return
    text, here = section_of(data, "data", "text"), ("teacher", kind)
    if text.get("streaming") is True:
        yield Problem(here, "needs rows that can be had by their number, and a stream has none; leave it out.")
    if text and text.get("task", "masked_lm") == "masked_lm":
        yield Problem(
            here, "cannot serve: words are hidden anew in every epoch, and the teacher must run; leave it out."
        )
    if teacher.get("dtype") is None and kind == "cache":
        yield from _one_precision(data)


def _one_precision(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Without a dtype of its own a teacher runs under the mixed precision of the stage that writes its cache, and all
    stages read that."""
    stages = mappings(data.get("stages"))
    for i, stage in stages[1:]:
        first, here = (_mixed(each) for each in (stages[0][1], stage))
        if here != first:
            text = (
                f"say {here} for stage {stage.get('name')!r}, and stage {stages[0][1].get('name')!r} says {first}: "
                "both read one cache of the teacher (teacher.cache), which runs under the precision of a stage. Give "
                "teacher.dtype, or the stages the same precision."
            )
            yield Problem(("stages", i, "arguments"), text)


def _mixed(stage: Mapping[str, Any]) -> str:
    given = section_of(stage, "arguments")
    return next((name for name in ("bf16", "fp16") if given.get(name)), "neither bf16 nor fp16")


def targets(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Stages learn what the teacher writes where it writes, and nbest_kd all of it."""
    teacher, here = section_of(data, "teacher"), ("teacher", "generate")
    writes = teacher.get("generate") is not None
    stages = mappings(data.get("stages"))
    asking = [i for i, stage in stages if stage.get("targets", REFERENCE) != REFERENCE]
    for i in [] if writes else asking:
        text = "are written by the teacher, and it writes nothing; add teacher.generate, or take the reference."
        yield Problem(("stages", i, "targets"), text)
    for i, stage in stages:
        names = {key for _, entry in mappings(stage.get("objectives")) for key in entry}
        for name in sorted(names & WEIGH_ALL) if stage.get("targets", REFERENCE) != "all" else []:
            yield Problem(("stages", i, "targets"), f"must be all: {name} weighs all that the teacher writes.")
    if not writes:
        return
    if not asking:
        yield Problem(here, "is read by no stage; give one of them targets: best, nearest or all.")
    rows = section_of(data, "data")
    if rows.get("speech") is not None:
        yield from _heard(data)
    elif rows.get("chat") is not None:
        yield from _answered(data)
    elif rows.get("translation") is None:
        text = "is for pairs of texts (data.translation), conversations (data.chat) and sounds (data.speech)"
        yield Problem(here, f"{text}, and the data are others; leave it out.")
    for key in (key for key in ("ensemble", "cache", *WITHOUT_MODEL) if teacher.get(key) is not None):
        yield Problem(here, f"does not go with teacher.{key}; one teacher in memory writes.")
    written = section_of(data, *here)
    if written.get("drawing") is not None and rows.get("speech") is None:
        if written.get("beams", 5) != 5:
            yield Problem((*here, "beams"), "are of a search, and drawing takes its place; leave one of them out.")
        return
    beams, kept = written.get("beams", 5), written.get("hypotheses", 1)
    if isinstance(beams, int) and isinstance(kept, int) and kept > beams:
        yield Problem((*here, "hypotheses"), f"are {kept}, and there are {beams} beams; give as many beams.")


def _answered(data: Mapping[str, Any]) -> Iterator[Problem]:
    """The weights of answers are columns of rows that hold one each, in the tokens of one model."""
    packs = section_of(data, "data", "chat").get("packing") is True
    is_own = section_of(data, "teacher").get("tokenizer") is not None
    for i, stage in mappings(data.get("stages")):
        for j, entry in mappings(stage.get("objectives")):
            if "nbest_kd" in entry and (packs or is_own):
                why = "data.chat.packing puts several into one" if packs else "teacher.tokenizer: own aligns them anew"
                text = f"weighs rows of one answer each, and {why}; leave one of them out, or take labels."
                yield Problem(("stages", i, "objectives", j, "nbest_kd"), text)


def _heard(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Of sounds the teacher's search has no length, and nothing is nearest."""
    for key, default in OF_TEXTS.items():
        if section_of(data, "teacher", "generate").get(key, default) != default:
            yield Problem(("teacher", "generate", key), "is about texts, and the data are sounds; leave it out.")
    for i, stage in mappings(data.get("stages")):
        if stage.get("targets") == "nearest":
            yield Problem(("stages", i, "targets"), "may not be nearest where the data are sounds; take best or all.")
