"""Other forms of a finished student, written into its folder, its record and its card."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError
from hf_distill.hub.card_text import with_exports
from hf_distill.hub.comparing import Batches
from hf_distill.hub.front_matter import FILE_NAME as CARD
from hf_distill.hub.graphs import FOLDER, Texts, add_graph
from hf_distill.hub.onnx import SENTENCES, batches_of, longest_row, require_onnx
from hf_distill.hub.record import Export, Record, write_whole
from hf_distill.loading import load_model
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.models import limits, plain_tokenizer
from hf_distill.runs.publishing import finished_record
from hf_distill.runs.workload import Workload
from hf_distill.runs.workloads import load_workload
from hf_distill.tasks import TASKS, task_of

ROWS = 2000
"""At most so many rows of the run's data are read."""

BATCH = 32


@dataclass(frozen=True)
class _Seen:
    """What a student and its forms are compared and timed on."""

    batches: Batches
    texts: Texts
    told: str
    max_length: int


def export_run(
    folder: str | os.PathLike[str], forms: Sequence[str], *, least_agreement: float = 0.98
) -> dict[str, Export]:
    """Writes forms (`onnx`, `onnx-int8`) of the finished student of a folder into its folder `onnx`, and what was
    found of them into its record and card; by file.

    They are compared with the student on rows of the split that the run reports, 2,000 at most. For a folder without
    `stages/run.json`, which came from elsewhere, and for a language model they are compared on a few sentences of
    English.

    Raises: `HubError` for a folder that is no finished run; `DataError` for data that are gone; and as `write_onnx`.
    """
    if not forms:
        return {}
    require_onnx()
    place = Path(folder).expanduser()
    record = finished_record(place)
    if record.task not in TASKS:
        raise DistillationError(
            f"{place}: the record is of the task {record.task!r}, which this version does not know."
        )
    model = load_model(str(place), TASKS[record.task].auto_class, role="finished student")
    tokenizer = plain_tokenizer(place, "finished student")
    seen = _seen(RunFolder(place), model.eval(), tokenizer)
    found: dict[str, Export] = {}
    for form in forms:
        path, facts = add_graph(
            form,
            model,
            tokenizer,
            place / FOLDER,
            seen.batches,
            seen.texts,
            told=seen.told,
            max_length=seen.max_length,
            least_agreement=least_agreement,
        )
        found[path.relative_to(place).as_posix()] = facts
        _tell(place, found)
    return found


def _tell(place: Path, found: dict[str, Export]) -> None:
    """The card keeps what was written into it by hand."""
    record = Record.read(place)
    record = record.model_copy(update={"exports": {**record.exports, **found}})
    record.write(place)
    card = place / CARD
    if card.is_file():
        write_whole(card, with_exports(card.read_text(encoding="utf-8", errors="replace"), record))


def _seen(folder: RunFolder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Seen:
    recipe = folder.recipe()
    if recipe is None or task_of(model).vocabulary_sized:
        told = f"{len(SENTENCES)} sentences of English"
        return _Seen(batches_of(model, tokenizer, SENTENCES), SENTENCES, told, longest_row(model, tokenizer))
    workload = load_workload(folder.pinned(recipe), train=False, student=model.name_or_path or None)
    batches = _rows(workload, recipe, model, tokenizer)
    told = f"{workload.name}, {workload.reported_split}"
    return _Seen(batches, workload.texts() or SENTENCES, told, recipe.max_length)


def _rows(
    workload: Workload, recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Rows of the reported split in batches, padded to the longest, with the labels as the model counts them."""
    split = workload.reported_split
    readable = limits(recipe, model)  # before it is fitted: a finished one is read as it was saved
    columns = workload.fit(model, "student")
    rows = workload.read(copy.deepcopy(tokenizer), readable, [split])[split]
    rows = workload.in_model_order(rows.select(range(min(len(rows), ROWS))), columns)
    names = (Anatomy.of(model).accepts - {*task_of(model).label_names}) | {"labels"}
    collate = workload.collator(tokenizer)
    items = [{name: value for name, value in row.items() if name in names} for row in rows]
    return [dict(collate(items[first : first + BATCH])) for first in range(0, len(items), BATCH)]
