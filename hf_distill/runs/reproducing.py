"""Running a record again: `from_record`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_distill.errors import DataError, RecipeError
from hf_distill.hub.folder import WEIGHTS, is_published
from hf_distill.hub.record import Record, environment, sha256_of_files
from hf_distill.hub.source import record_from
from hf_distill.recipe import Recipe
from hf_distill.runs.locating import located
from hf_distill.runs.publishing import Publication
from hf_distill.runs.results import RunResult
from hf_distill.runs.running import trained
from hf_distill.runs.workload import Workload

logger = logging.getLogger(__name__)

TRACKING = ("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
"""Arguments of a record that are not taken over."""


def from_record(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    teacher: str | None = None,
    student: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    evaluate: bool = True,
    command: Sequence[str] = (),
    publication: Publication | None = None,
) -> RunResult:
    """Runs the recipe of a record again, and leaves the student in `output_dir` as `hf_distill.run` does.

    On the machine and with the versions of the record the weights come out bitwise equal; a warning lists what is
    different here, and the result's notes say whether they are. What came from the Hub is taken at the commit of then.
    Paths are not in a record: files and folders are looked for by their names in `data_dir` and in the working
    directory, and their SHA-256 sums compared.

    Args:
        source: the folder of a run, or a repository on the Hub, `owner/name` or `owner/name@revision`.
        teacher, student: where the teacher, and the model that the student starts from, are now.
        data_dir: a folder with the files and folders that the record names.
        trust_remote_code: run the code of the models' repositories, if the recipe does. A record may be anybody's.
        evaluate, command, publication: as for `hf_distill.run`.

    Raises: `HubError` for a record that is missing, not valid or of a newer schema; `RecipeError` for one without a
    recipe, as a trainer's, or with one that cannot be run; `DataError` for files, models and rows that are missing or
    not those of the record; and as `hf_distill.run`.
    """
    if Path(source).is_dir() and Path(source).resolve() == Path(output_dir).resolve():
        raise RecipeError(f"{source} is the folder of the record itself; give another output_dir.")
    record = record_from(source)
    given = {"teacher.model": teacher, "student.model": student}
    models = {key: name for key, name in given.items() if name is not None}
    place = None if data_dir is None else Path(data_dir).expanduser()
    recipe = recipe_again(record, str(source), models, place, trust_remote_code)
    _say_what_differs(record, recipe)

    def check(workload: Workload) -> None:
        _check_rows(record, recipe, workload)

    result = trained(recipe, output_dir, evaluate, False, command, publication, check)
    return replace(result, notes=(*result.notes, *_verdict(record, result.output_dir)))


def recipe_again(
    record: Record, source: str, models: Mapping[str, str], data_dir: Path | None, trust_remote_code: bool
) -> Recipe:
    """The recipe of a record, with the places that its models and files have here.

    Raises: as `from_record`.
    """
    if record.recipe is None:
        raise RecipeError(
            f"{source}: the record has no recipe; a DistillationTrainer in Python made it, whose arguments it tells "
            "(training_arguments, objectives) and cannot run. Run that program again."
        )
    recipe = Recipe.from_dict(_without_trackers(record.recipe), f"{source}: recipe of the record")
    if _runs_code(record.recipe) and not trust_remote_code:
        raise RecipeError(
            f"{source}: the recipe runs the Python code of its models' repositories; look at it, and allow it with "
            "--trust_remote_code (trust_remote_code=True)."
        )
    unknown = [key for key in models if _absent(record.recipe, key)]
    if unknown:
        raise RecipeError(f"{source}: {unknown[0]} is given, and the recipe of the record names no such model.")
    return recipe.override(located(record, recipe.to_dict(), models, data_dir))


def _without_trackers(values: Any) -> Any:
    """A recipe whose arguments name no tracker: they tell others of a run, and change nothing in it."""
    if isinstance(values, list):
        return [_without_trackers(value) for value in values]
    if not isinstance(values, Mapping):
        return values
    arguments = values.get("arguments")
    own = {key: _without_trackers(value) for key, value in values.items()}
    if isinstance(arguments, Mapping):
        own["arguments"] = {name: value for name, value in arguments.items() if name not in TRACKING}
    return own


def _runs_code(values: Any) -> bool:
    if isinstance(values, Mapping):
        return bool(values.get("trust_remote_code")) or any(_runs_code(value) for value in values.values())
    return isinstance(values, list) and any(_runs_code(value) for value in values)


def _absent(recipe: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    return not isinstance(recipe.get(section), Mapping) or recipe[section].get(name) is None


def _check_rows(record: Record, recipe: Recipe, workload: Workload) -> None:
    """Raises: `DataError` if the rows are not those that the record's student was trained on."""
    found = workload.facts(recipe)
    pairs = {
        f"data of {split}, {told.name}": (told.sha256, found.sources[split].sha256 if split in found.sources else None)
        for split, told in record.data.sources.items()
        if told.sha256 is not None
    }
    is_text = recipe.data is not None and recipe.data.text is not None
    if not is_text and record.data.fingerprint is not None:  # that of raw text names its files
        pairs["the rows"] = (record.data.fingerprint, found.fingerprint)
    changed = [f"{name}: SHA-256 {now}, then {then}" for name, (then, now) in pairs.items() if now != then]
    if changed:
        raise DataError(
            f"{workload.name}: the data are not those of the record: {'; '.join(changed)}. Take the files of then, or "
            "run the recipe on these as a run of its own."
        )


def _say_what_differs(record: Record, recipe: Recipe) -> None:
    """Warns where bitwise equal weights cannot be promised."""
    versions, hardware = environment()
    then, now = record.hardware.model_dump(exclude={"cores"}), hardware.model_dump(exclude={"cores"})
    pairs = {
        **{name: (told, versions.get(name)) for name, told in record.versions.items()},
        **{name: (told, now[name]) for name, told in then.items() if told is not None},
        **_precisions(record, recipe),
    }
    differing = [f"{name} {told}, here {found}" for name, (told, found) in pairs.items() if told != found]
    if differing:
        logger.warning(
            "the record was made with other software or on another machine (%s): the weights need not come out "
            "bitwise equal.",
            "; ".join(differing),
        )


def _precisions(record: Record, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """The mixed precision of then and now, where the recipe leaves it to the launcher."""
    then = record.training_arguments.get("mixed_precision")
    if then is None or {"bf16", "fp16"} & recipe.stages[-1].arguments.keys():
        return {}
    return {"mixed precision": (then, os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))}


def _verdict(record: Record, folder: Path) -> tuple[str, ...]:
    """A sentence on whether the weights are those of the record; none where it has no sums of them."""
    then = {name: told for name, told in record.student.files.items() if is_published(name, WEIGHTS)}
    if not then:
        return ()
    differing = sorted(set(then.items()) ^ set(sha256_of_files(folder, WEIGHTS).items()))
    if not differing:
        return ("Reproduced: the weights are bitwise those of the record.",)
    names = ", ".join(dict.fromkeys(name for name, _ in differing))
    return (f"Not reproduced bit by bit: {names} differs from the record's.",)
