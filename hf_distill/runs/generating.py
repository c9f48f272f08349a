"""What stages learn in place of the targets of the data: the texts that the teacher writes, once, before them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset
from torch import device
from transformers import PreTrainedModel

from hf_distill.data.corpus_filters import Filters, filtered
from hf_distill.data.hypotheses import with_heard, with_hypotheses
from hf_distill.data.speech import sounds_as_arrays
from hf_distill.errors import DataError, DistillationError
from hf_distill.loading import stays
from hf_distill.ranks import is_main_process
from hf_distill.recipe import Recipe
from hf_distill.recipe.sections.teacher import Writing
from hf_distill.runs.abilities import Retargetable, Sources
from hf_distill.runs.folder import RunFolder, read_json, write_json
from hf_distill.teachers.generated import REASONS, UNANSWERED, Generated
from hf_distill.teachers.generation import Hypothesis, Search
from hf_distill.teachers.heard import SoundSearch, digest_of_sounds, heard_of, sound_column

if TYPE_CHECKING:
    from hf_distill.runs.preparation import Setup

logger = logging.getLogger(__name__)

FOLDER = "teacher-texts"
"""Below `stages/`, where nothing is published from."""
COUNTS = "teacher-texts.json"
"""There, too: how many texts there were, and were kept."""
ALL = ("written", "kept")
"""Counts of texts that did not fall to anything."""


def texts_folder(recipe: Recipe, folder: RunFolder) -> Path | None:
    """Where the recipe keeps what the teacher writes; None where it writes nothing."""
    if recipe.teacher is None or recipe.teacher.generate is None:
        return None
    named = recipe.teacher.generate.folder
    return folder.stages / FOLDER if named is None else Path(named).expanduser()


def generated(setup: Setup, sources: Sources, place: device) -> Generated:
    """What the recipe's teacher writes for `sources`; what is not there yet is written, with the teacher on `place`,
    or where it was laid over devices.

    Raises: `DistillationError` for a recipe whose teacher writes nothing; `CacheMismatch` for a folder with other
    texts.
    """
    teacher, folder, section = _writer(setup)
    search = search_of(setup, sources, section, teacher)
    before, moves = teacher.device, not stays(teacher)
    if moves:
        teacher.to(place)
    found = Generated.of(folder, teacher, sources.tokenizer, sources.texts, search, batch_size=section.batch_size)
    if moves:
        teacher.to(before)
    return found


def search_of(setup: Setup, sources: Sources, section: Writing, teacher: PreTrainedModel) -> Search:
    """How the teacher writes. Of prompts with an answer behind them both must have room in it.

    Raises: `DataError` where no prompt has.
    """
    settings = section.model_dump(exclude={"folder", "batch_size", "filters"})
    longest = setup.limits.longest(sources.tokenizer)
    if sources.rendered:
        reads = getattr(teacher.config, "max_position_embeddings", None)  # also of models that could go further
        longest = min(longest, reads - section.max_new_tokens) if isinstance(reads, int) else longest
        if longest < 1:
            raise DataError(
                f"teacher.generate: max_new_tokens is {section.max_new_tokens}, and the teacher takes {reads} tokens, "
                "prompt and answer together; lower it (--max_new_tokens)."
            )
    return Search(**settings, max_source_length=longest, rendered=sources.rendered, ends=sources.ends)


def read_by_teacher(setup: Setup, workload: Retargetable) -> Sources:
    """What the teacher reads to write, found once, and checked.

    Raises: `DataError`, as `Retargetable.sources_of` and `search_of`.
    """
    if setup.sources is None:
        sources = workload.sources_of(setup.recipe, setup.tokenizer)
        teacher, _, section = _writer(setup)
        search_of(setup, sources, section, teacher)
        setup.sources = sources
    return setup.sources


def _writer(setup: Setup) -> tuple[PreTrainedModel, Path, Writing]:
    """The teacher that writes, where what it writes is kept, and how it does."""
    teacher, folder = setup.recover_teacher(), texts_folder(setup.recipe, setup.folder)
    section = None if setup.recipe.teacher is None else setup.recipe.teacher.generate
    if teacher is None or folder is None or section is None:
        raise DistillationError("the recipe's teacher writes no texts; give teacher.generate.")
    return teacher, folder, section


def heard(setup: Setup, place: device) -> Generated:
    """What the recipe's teacher takes the training sounds for; what is not there yet is searched for, with the teacher
    on `place`.

    Raises: as `generated`.
    """
    teacher, folder, section = _writer(setup)
    search = SoundSearch(beams=section.beams, hypotheses=section.hypotheses)
    rows, collate = setup.splits["train"], setup.workload.collator(setup.tokenizer)
    before = teacher.device
    teacher.to(place)
    found = heard_of(folder, teacher, rows, collate, search, batch_size=section.batch_size)
    teacher.to(before)
    return found


def learned_sounds(setup: Setup, choice: str, place: device) -> Dataset:
    """The training sounds with what the teacher took them for, chosen as `with_heard` does.

    Raises: as `generated`.
    """
    rows = setup.splits["train"]
    found = with_heard(rows, heard(setup, place).rows(digest_of_sounds(rows)), choice)
    return sounds_as_arrays(found, sound_column(rows))  # columns that are added take that back


def learned_targets(
    setup: Setup, rows: Dataset, sources: Sources, target_column: str, choice: str, place: device
) -> Dataset:
    """The rows with what the teacher wrote as targets, chosen as `with_hypotheses` does among the texts that the
    recipe's filters keep. Rows of which nothing is left are left out, which is said in the log.

    Raises: as `generated`; `DataError` where nothing is left.
    """
    hypotheses, counts = sorted_out(setup, sources, rows[target_column][:], place)
    kept = [i for i, row in enumerate(hypotheses) if row]
    if len(kept) < len(rows):
        first = next(i for i, row in enumerate(hypotheses) if not row)
        told = f"of {len(rows) - len(kept)} of {len(rows)} rows, the first of which is row {first + 1}"
        fell = ", ".join(f"{number} {what}" for what, number in counts.items() if number and what not in ALL)
        text = f"the teacher wrote no text that is kept {told} ({sources.texts[first][:60]!r}; dropped: {fell})"
        if not kept:
            raise DataError(
                f"{text}; let it write longer texts (teacher.generate.max_new_tokens), or ask less of them "
                "(teacher.generate.filters)."
            )
        logger.warning("%s; they are left out", text)
    return with_hypotheses(rows.select(kept), [hypotheses[i] for i in kept], target_column, choice)


def sorted_out(
    setup: Setup, sources: Sources, references: Sequence[str], place: device
) -> tuple[list[list[Hypothesis]], dict[str, int]]:
    """What of the teacher's texts the recipe's filters keep for each source, and how many there are: `written`,
    `kept`, and what fell to what, which is left in the folder of the run for its record; and how many sources nothing
    was written for, where there are some.

    Raises: as `generated`.
    """
    found, left_out = generated(setup, sources, place).sorted_out(sources.texts)
    section = _writer(setup)[2]
    dropped = {reason: left_out[reason] for reason in REASONS}
    written = sum(map(len, found)) + sum(dropped.values())
    if section.filters is not None:
        found, more = filtered(found, references, Filters(**section.filters.model_dump()))
        dropped |= more
    unanswered = {UNANSWERED: left_out[UNANSWERED]} if UNANSWERED in left_out else {}
    counts = {"written": written, "kept": sum(map(len, found)), **dropped, **unanswered}
    logger.info("the teacher's texts: %s", told_of(counts))
    if is_main_process():
        write_json(setup.folder.stages / COUNTS, counts)
    return found, counts


def told_of(counts: Mapping[str, int]) -> str:
    """Counts of texts in words."""
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def texts_counted(folder: RunFolder) -> dict[str, int]:
    """What `sorted_out` counted in the run of this folder; empty where its teacher wrote nothing."""
    return read_json(folder.stages / COUNTS) or {}
