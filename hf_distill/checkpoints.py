"""What lies beside the student in a checkpoint, how checkpoints come and go, and which of them are whole."""

from __future__ import annotations

import json
import logging
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import sort_checkpoints

from hf_distill.errors import BrokenCheckpoint, DistillationError
from hf_distill.manifest import Manifest
from hf_distill.shards import of_objectives
from hf_distill.teachers import Teacher

logger = logging.getLogger(__name__)

OBJECTIVES = "distillation.safetensors"
"""What the objectives learned: tensors named `<term>.<parameter>`."""

TEACHER = "teacher.safetensors"
"""A teacher that follows the student, `MovingAverage`."""

ARGUMENTS = "training_arguments.json"
_BUDGET = "tokens_per_batch"
"""The trainer's own setting, told of beside the arguments."""

_STATES = {"optimizer.pt": ("optimizer_*", "optimizer.bin", "global_step*"), "scheduler.pt": ("global_step*",)}
"""What must be there, and what FSDP and DeepSpeed have in place of it."""

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_0",
)


def write_objectives(folder: Path, objectives: nn.ModuleDict, *, gathered: Mapping[str, Tensor] | None = None) -> None:
    """Writes what the objectives learned, if they learned anything; of an engine's `gathered` state, if one holds
    them in shards."""
    found = objectives.state_dict() if gathered is None else of_objectives(gathered)
    state = {name: tensor.contiguous().cpu() for name, tensor in found.items()}
    if state:
        save_file(state, folder / OBJECTIVES)


def read_objectives(folder: Path, objectives: nn.ModuleDict) -> None:
    """Gives the objectives back what `write_objectives` wrote.

    Raises: `BrokenCheckpoint` if the file is missing, damaged, or of other objectives.
    """
    wanted = objectives.state_dict()
    path = folder / OBJECTIVES
    if not wanted:
        return
    if not path.is_file():
        raise BrokenCheckpoint(
            f"{path} is missing; the objectives learn {', '.join(wanted)} and cannot go on without it."
        )
    found = _tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    if shapes != expected:
        raise BrokenCheckpoint(
            f"{path} holds {shapes}, the objectives of this run learn {expected}; it is of another run."
        )
    objectives.load_state_dict(found)


def write_teacher(folder: Path, teacher: Teacher | None) -> None:
    """Writes what of the teacher changes while the student trains, if anything does."""
    state = {} if teacher is None else teacher.state()
    if state:
        save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, folder / TEACHER)


def read_teacher(folder: Path, teacher: Teacher | None) -> None:
    """Gives the teacher back what `write_teacher` wrote.

    Raises: `BrokenCheckpoint` if the file is missing, damaged, or of another teacher.
    """
    path = folder / TEACHER
    if teacher is None or not teacher.state():
        return
    if not path.is_file():
        raise BrokenCheckpoint(
            f"{path} is missing; the teacher changes while the student trains, and cannot go on without it."
        )
    teacher.load_state(_tensors(path))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}. Resume from an earlier checkpoint.") from error
    return found


def replace_pickled_arguments(folder: Path, args: Any, tokens_per_batch: int | None = None) -> None:
    """Puts the arguments down as JSON with tokens masked, and the token budget; the pickle that the Trainer writes
    would hold tokens in clear.
    """
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    told = {**args.to_sanitized_dict(), _BUDGET: tokens_per_batch}
    text = json.dumps(told, indent=2, default=str, sort_keys=True)
    (folder / ARGUMENTS).write_text(text + "\n", encoding="utf-8")


def let_others_read(folder: Path, like: str = ARGUMENTS) -> None:
    """Gives the weights in a folder the mode of another file in it: safetensors writes files that their owner alone
    may read.
    """
    mode = stat.S_IMODE((folder / like).stat().st_mode)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def check_same_budget(checkpoint: Path, tokens_per_batch: int | None) -> None:
    """Refuses to go on with another token budget: the batches of an epoch are others then, so that those which are
    skipped are not those which were trained on. A checkpoint that does not tell of a budget is not compared.

    Raises: `BrokenCheckpoint` with both values and the remedy.
    """
    path = checkpoint / ARGUMENTS
    if not path.is_file():
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}. Resume from an earlier checkpoint.") from error
    if isinstance(told, dict) and told.get(_BUDGET, tokens_per_batch) != tokens_per_batch:
        raise BrokenCheckpoint(
            f"{checkpoint} was trained with tokens_per_batch={told[_BUDGET]}, and {tokens_per_batch} is asked for: "
            f"batches would be others, and rows be trained on twice or not at all. Set tokens_per_batch="
            f"{told[_BUDGET]} to go on, or ignore_data_skip=True to begin the epoch's batches anew."
        )


def check_known_order(checkpoint: Path) -> None:
    """Refuses to go on in the middle of a later epoch whose order of rows came from the generator of dropout: it is
    the order that the first epoch of the resumed process would have.

    Raises: `BrokenCheckpoint` with the remedy.
    """
    epoch = float(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["epoch"])
    if epoch > 1 and not epoch.is_integer():
        raise BrokenCheckpoint(
            f"{checkpoint} is of epoch {epoch:.2f}, whose order of rows is not known: with use_seedable_sampler=False "
            "it is drawn from the generator that dropout draws from, so rows would be trained on twice or not at all. "
            "Go on from the end of an epoch, or set ignore_data_skip=True to begin this one anew."
        )


# ---- which run a checkpoint is of ----

DIFFERENCES = ("data", "teacher", "base", "objectives", "arguments", "world_size", "stage")
"""What tells one run from another, and may be told to differ."""

_SHOWN = 6


def known_differences(names: Collection[str]) -> frozenset[str]:
    """`resume_despite`, checked.

    Raises: `DistillationError` for a name that is none of `DIFFERENCES`.
    """
    unknown = [repr(name) for name in ([names] if isinstance(names, str) else names) if name not in DIFFERENCES]
    if isinstance(names, str) or unknown:
        raise DistillationError(
            f"resume_despite is {names!r}; give some of {', '.join(DIFFERENCES)}, as a list of names."
        )
    return frozenset(names)


def check_same_run(checkpoint: Path, run: Mapping[str, Any], despite: Collection[str] = ()) -> None:
    """Refuses to go on with other data, another teacher, other objectives, arguments or numbers of processes than the
    checkpoint was trained with, but for those that `despite` names. What either side does not tell of is not compared,
    and of a checkpoint without a manifest nothing is known.

    Raises: `BrokenCheckpoint` with what differs and the remedy.
    """
    manifest = Manifest.read(checkpoint)
    if manifest is None:
        logger.warning(
            "%s has no manifest: whether its files are as they were written, and of this run, is not known. It is "
            "gone on with as it is.",
            checkpoint,
        )
        return
    lines: dict[str, list[str]] = {}
    for name in DIFFERENCES:
        before, now = manifest.run.get(name), run.get(name)
        if name == "arguments" and isinstance(before, dict) and now is not None:
            before = {key: value for key, value in before.items() if key in now}
            now = {key: value for key, value in now.items() if key in before}
        found = [] if name in despite or before is None or now is None else _differences(name, before, now)
        if found:
            lines[name] = found
    if lines:
        told = [line for found in lines.values() for line in found]
        more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise BrokenCheckpoint(
            f"{checkpoint} is of another run: {'; '.join(told[:_SHOWN])}{more}. Train as before, or allow it: "
            f"resume_despite={tuple(lines)}."
        )


def check_same_engine(checkpoint: Path, engine: str) -> None:
    """Refuses a checkpoint that was written by what reads no other: whole tensors, parts of a student that was sharded
    when it was loaded, FSDP in one of its forms, DeepSpeed in one of its stages.

    Raises: `BrokenCheckpoint` with both and the remedy.
    """
    manifest = Manifest.read(checkpoint)
    written = engine if manifest is None else manifest.run.get("engine", engine)
    if written != engine:
        raise BrokenCheckpoint(
            f"{checkpoint} was written by an engine ({written}) whose optimizer this one ({engine}) cannot read. "
            "Train on as before, or start anew from its model.safetensors, which is the whole student."
        )


def _differences(name: str, before: Any, now: Any) -> list[str]:
    """Where two plain values differ, in words; digests say nothing by themselves."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        found = [_differences(f"{name}.{key}", before.get(key), now.get(key)) for key in keys]
        return [line for lines in found for line in lines]
    if before == now:
        return []
    digests = name in ("data", "teacher", "base")
    return [f"{name}: another than before" if digests else f"{name}: {_brief(now)}, was {_brief(before)}"]


def _brief(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- how checkpoints come and go ----


def part_of(home: Path, step: int) -> Path:
    """The folder in which `checkpoint-<step>` is written before it is whole; the checkpoint lies in it by its own
    name."""
    return home / f".checkpoint-{step}.part"


def begin(part: Path) -> None:
    """Makes the folder of a checkpoint to come, and removes what a run that was killed left of others."""
    for pattern in (".checkpoint-*.part", ".checkpoint-*.old"):
        for left in part.parent.glob(pattern):
            shutil.rmtree(left)
    part.mkdir(parents=True)


def abandon(part: Path) -> int:
    """Removes a checkpoint that could not be written; returns how many bytes were free before."""
    free = shutil.disk_usage(part.parent).free
    shutil.rmtree(part, ignore_errors=True)
    return free


def put_in_place(part: Path, step: int, run: Mapping[str, Any]) -> Path:
    """Gives a checkpoint that is written whole its manifest and its place; returns where it lies.

    The file sizes are in the manifest, the sums come with `seal`. One of the same step, torn or of an earlier try,
    makes room.
    """
    written = part / f"checkpoint-{step}"
    Manifest.of(written, step, run).write(written)
    final = part.parent / written.name
    if final.exists():
        old = part.parent / f".{final.name}.old"
        final.rename(old)
        written.rename(final)
        shutil.rmtree(old)
    else:
        written.rename(final)
    part.rmdir()
    return final


def seal(checkpoint: Path) -> None:
    """Puts the SHA-256 of every file into the manifest, when all of them are on the disk. A checkpoint that was taken
    away meanwhile is let go.
    """
    try:
        manifest = Manifest.read(checkpoint)
        if manifest is not None:
            manifest.sealed(checkpoint).write(checkpoint)
    except FileNotFoundError:
        if checkpoint.is_dir():
            raise
        logger.warning("%s was removed while it was looked over", checkpoint)


def rotate(home: Path, limit: int | None, newest: Path, best: str | None) -> None:
    """Removes the oldest checkpoints until `limit` whole ones are left, and those that are torn.

    The one just written and the best one stay. So does what is torn and of a later step than the one just written:
    training gets there.
    """
    if limit is None or limit <= 0:
        return
    kept = {newest, newest if best is None else Path(best)}
    found = [Path(each) for each in sort_checkpoints(str(home), use_mtime=True)]
    whole = [each for each in found if each in kept or fault_of(each, thoroughly=False) is None]
    surplus = max(len(whole) - max(limit, len(kept)), 0)
    step = _step(newest)
    old = [each for each in whole if each not in kept][:surplus]
    torn = [each for each in found if each not in whole and _step(each) < step]
    for each in (*old, *torn):
        shutil.rmtree(each, ignore_errors=True)  # whoever else removes it


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


# ---- which checkpoints are whole ----


def last_whole(output_dir: Path) -> Path | None:
    """The newest `checkpoint-<step>` from which a run can go on; torn and damaged ones are skipped with a message."""
    return _search(output_dir)[0]


def _search(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and what is wrong with those after it."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    faults: list[str] = []
    for path in sorted(found, key=_step, reverse=True):
        fault = fault_of(path)
        if fault is None:
            return path, faults
        faults.append(f"{path.name}: {fault}")
        logger.warning("%s is not whole (%s) and is skipped", path, fault)
    return None, faults


def to_resume_from(asked: str | bool | None, output_dir: Path) -> str | None:
    """The checkpoint that `train(resume_from_checkpoint=…)` means: True is the newest whole one.

    Raises: `BrokenCheckpoint` for one that is named and not whole, or if there is none.
    """
    if not asked:
        return None
    if asked is True:
        newest, faults = _search(output_dir)
        if newest is None:
            told = f" ({'; '.join(faults)})" if faults else ""
            raise BrokenCheckpoint(
                f"{output_dir} has no whole checkpoint to resume from{told}; train without resuming."
            )
        if faults:
            logger.warning("going on from %s", newest)
        return str(newest)
    fault = fault_of(Path(asked))
    if fault is not None:
        raise BrokenCheckpoint(f"{asked} is not whole ({fault}); resume from an earlier checkpoint.")
    return asked


def check_intact(checkpoint: Path) -> None:
    """Refuses a checkpoint with a file that is not as it was written.

    Raises: `BrokenCheckpoint` with the file.
    """
    fault = _damage(checkpoint, thoroughly=True)
    if fault is not None:
        raise BrokenCheckpoint(f"{checkpoint} is not whole: {fault}.")


def fault_of(path: Path, thoroughly: bool = True) -> str | None:
    """Why a run cannot go on from a checkpoint; None where it can. Bytes are read where it is looked at
    `thoroughly`.
    """
    return _damage(path, thoroughly) or _lack(path)


def _damage(path: Path, thoroughly: bool) -> str | None:
    try:
        manifest = Manifest.read(path)
    except BrokenCheckpoint as error:
        return str(error)
    return None if manifest is None else manifest.fault(path, thoroughly)


def _lack(path: Path) -> str | None:
    """What is missing, whether or not there is a manifest.

    The Trainer writes `trainer_state.json` last, so where there is none, a readable one that names the folder's own
    step marks the end of a save.
    """
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"trainer_state.json: {error}"
    step = path.name.removeprefix("checkpoint-")
    if not isinstance(state, dict) or (step.isdigit() and state.get("global_step") != int(step)):
        return "trainer_state.json is of another step"
    adapters = any(path.glob("*/adapter_model.safetensors"))  # those with names of their own lie in folders
    if not adapters and not any((path / name).exists() for name in WEIGHTS):
        return "no weights"
    for name, others in _STATES.items():
        if not (path / name).exists() and not any(any(path.glob(each)) for each in others):
            return f"{name} is missing"
    if not any(path.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    return None
