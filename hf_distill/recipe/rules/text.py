"""Raw text: its sources, its stream, and the models that read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.data import SOURCES
from hf_distill.recipe.rules.reading import items, mappings, section_of


def raw(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Raw text names its own sources; a stream ends by max_steps, and an encoder has no labels."""
    section, here = section_of(data, "data", "text"), ("data", "text")
    if not section:
        return
    for key in (key for key in (*SOURCES, "split") if section_of(data, "data").get(key) is not None):
        yield Problem(("data", key), "does not go with text, which names its sources itself; leave it out.")
    for split in ("train", "validation"):
        yield from _text_sources((*here, split), items(section.get(split)), bool(section.get("streaming")))
    if section.get("streaming") is True:
        if not section.get("validation"):
            yield Problem((*here, "validation"), "is missing: no rows of a stream can be held out.")
        for i, stage in enumerate(items(data.get("stages"))):
            steps = section_of(stage, "arguments").get("max_steps") if isinstance(stage, Mapping) else None
            if not isinstance(steps, int) or steps < 1:
                text = "needs max_steps: a stream has no end, and no epochs."
                yield Problem(("stages", i, "arguments"), text)
        if section_of(data, "max_samples").get("train") is not None:
            text = "does not go with a stream, whose rows are not counted; give its sources documents instead."
            yield Problem(("max_samples", "train"), text)
    masking = section_of(section, "masking")
    if masking.get("smoothing") is None and masking.get("counts") is not None:
        yield Problem((*here, "masking", "counts"), "goes with smoothing, which is not given.")
    if masking.get("smoothing") is not None and masking.get("whole_word") is True:
        yield Problem((*here, "masking"), "smoothing weighs tokens and whole_word hides words; choose one of them.")
    if section.get("task") == "encoder":
        yield from _encoder(data)
    if section.get("task") == "causal_lm" and masking:
        yield Problem((*here, "masking"), "hides words, and a causal model predicts the next one; leave it out.")


def budgets(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Batches with a budget are cut by the lengths of all rows of an epoch, the same in every epoch."""
    text = section_of(data, "data", "text")
    weighed = any(source.get("weight") for _, source in mappings(text.get("train")))
    for i, stage in mappings(data.get("stages")):
        if stage.get("tokens_per_batch") is not None:
            here = ("stages", i, "tokens_per_batch")
            if text.get("streaming") is True:
                yield Problem(here, "needs the lengths of all rows, and those of a stream are not known.")
            elif weighed:
                yield Problem(here, "does not go with weights of sources, which give every epoch other rows.")


def _text_sources(path: Path, sources: list[Any], streaming: bool) -> Iterator[Problem]:
    known = mappings(sources)
    for i, source in known:
        given = [key for key in ("files", "hub") if source.get(key) is not None]
        if len(given) != 1:
            yield Problem((*path, i), f"give exactly one of files and hub; found {' and '.join(given) or 'neither'}.")
    weighed = [i for i, source in known if source.get("weight") is not None]
    if path[-1] == "validation" and weighed:
        yield Problem((*path, weighed[0], "weight"), "is for training text; all rows of validation text count.")
    elif weighed and len(weighed) < len(known):
        yield Problem(path, "has weights for some of its sources; give one to each, or to none.")
    elif streaming and not weighed and len(known) > 1 and path[-1] == "train":
        yield Problem(path, "needs a weight for each source of a stream, as none knows its size.")


def _encoder(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What needs labels does not go with models without a head."""
    for path in (("control",), ("teacher", "fine_tune"), ("data", "text", "masking")):
        if section_of(data, *path[:-1]).get(path[-1]):
            yield Problem(path, "needs labels, and an encoder has none; leave it out.")
