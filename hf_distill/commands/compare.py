"""`compare`: recipes side by side on one task, each with several seeds, in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import HfArgumentParser

from hf_distill import students
from hf_distill.commands import glue, ner, qa, reports_errors
from hf_distill.commands.comparing import CONTROL, PICK, REFERENCE, Files, Trial, at_one_commit, planned, start_of
from hf_distill.commands.flags import Flags, Group, flag, layers_in, make_parser, parse
from hf_distill.commands.help import page
from hf_distill.commands.overrides import Script
from hf_distill.commands.trials import carry_out
from hf_distill.errors import DistillationError, RecipeError
from hf_distill.evaluation import compare
from hf_distill.evaluation.compare import FAILED, SCORED, Log, Run
from hf_distill.loading import load_model, load_tokenizer
from hf_distill.students.layers import PICKS
from hf_distill.suggestions import did_you_mean
from hf_distill.tasks import TASKS

SCRIPTS: dict[str, tuple[Script, str]] = {
    "glue": (glue.SCRIPT, "single_label"),
    "ner": (ner.SCRIPT, "token_classification"),
    "qa": (qa.SCRIPT, "question_answering"),
}
"""Kinds of data, and the task whose models they are for."""

DESCRIPTION = f"""Runs every recipe with every seed on the same rows, with the same trained teacher and students of the
same depth, and writes comparison.md, .json and .png: mean and spread of the metric, the difference to the same student
on the labels alone (recipe "{CONTROL}", same seed, same rows) with its 95 % interval, CPU seconds of a step against
those of recipe "{REFERENCE}", and peak memory. What a task cannot take is listed with the reason.

Data and training flags are those of the command that trains, and change every stage of every recipe; learning rates,
weights and everything else that no flag names stay as a recipe has them. Called again it goes on where it stopped;
several processes may share the folder. compare NAME --help lists the flags.

  hf-distill compare glue --recipes comparisons/pkd comparisons/distilbert --task_name rte \\
      --teacher_name_or_path TEACHER --output_dir comparisons/rte"""

COMPARISON: Group = {
    "recipes": flag("The recipes: .yaml files, or names of shipped ones (review/pkt …).", nargs="+"),
    "seeds": flag("A run of each recipe with each of these (0 1 2).", int, nargs="+"),
    "teacher_name_or_path": flag("The teacher of all recipes, trained for the task: a folder or an id on the Hub."),
    "further_teachers": flag("Those after the first one, for recipes with several.", nargs="+"),
    "student_layers": flag("Layers of the teacher in a student: how many (3), or which (1,3,5).", layers_in),
    "student_pick": flag("Which layers a number stands for; without it as a recipe says.", choices=PICKS),
    "report": {"help": "Run nothing; write what is there.", "action": "store_true"},
    "retry": {"help": "Run again what was refused or failed.", "action": "store_true"},
}

DEFAULTS: dict[str, Any] = {"seeds": [0, 1, 2], "student_layers": 3}

NOT_TAKEN = ("seed", "resume_from_checkpoint", "push_to_hub", "do_train", "do_eval", "do_predict")


def parsers() -> dict[str, HfArgumentParser]:
    """The flags by the first word."""
    return {
        name: make_parser(f"compare {name}", DESCRIPTION, script.flags, {"comparison": COMPARISON})
        for name, (script, _) in SCRIPTS.items()
    }


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status, 1 if a run failed."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(page("compare", f"({' | '.join(SCRIPTS)}) --recipes RECIPE … [flags]", DESCRIPTION))
        return 0
    if words[0] not in SCRIPTS:
        hint = did_you_mean(words[0], SCRIPTS, ", ") or "."
        raise RecipeError(f"compare: {words[0]!r} is no kind of data{hint} The first word is {', '.join(SCRIPTS)}.")
    script, task = SCRIPTS[words[0]]
    flags = _parsed(script, words[1:])
    folder = Path(flags.arguments["output_dir"])
    files = Files()
    start = start_of(folder, flags.own, files)
    reports = bool(flags.own.get("report"))
    plan = at_one_commit(planned(script, flags, start, files), folder, look_up=not reports)
    log = Log(folder / "runs.jsonl")
    if not reports:
        _write_start(start, flags, TASKS[task].auto_class)
        carry_out([each for each in plan if isinstance(each, Trial)], log, folder, retry=bool(flags.own.get("retry")))
    return _report(plan, log, folder)


def _parsed(script: Script, words: Sequence[str]) -> Flags:
    """Raises: `RecipeError` for flags that are unknown, missing, or of no use here."""
    flags = parse(words, parsers()[script.name])
    for name in NOT_TAKEN:
        if name in flags.arguments:
            raise RecipeError(f"command line: compare does not take --{name}; it trains with --seeds, and scores.")
    for name in ("recipes", "teacher_name_or_path"):
        if name not in flags.own:
            raise RecipeError(f"command line: compare needs --{name}.")
    if "output_dir" not in flags.arguments:
        raise RecipeError("command line: compare needs --output_dir.")
    return replace(flags, own={**DEFAULTS, **flags.own})


def _write_start(folder: Path, flags: Flags, auto_class: str) -> None:
    """The teacher's layers as a model of its own, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        part, teacher = folder.with_name(f".{folder.name}.part"), flags.own["teacher_name_or_path"]
        model = load_model(teacher, auto_class, role="teacher")
        pick = flags.own.get("student_pick", PICK)
        students.from_layers(model, layers=flags.own["student_layers"], pick=pick).save_pretrained(part)
        load_tokenizer(teacher, role="teacher").save_pretrained(part)
        part.replace(folder)


def _report(plan: Sequence[Trial | Run], log: Log, folder: Path) -> int:
    """Writes and prints the table of what is there; the exit status."""
    done = log.read()
    found = [each if isinstance(each, Run) else done.get(each.key) for each in plan]
    runs = [run for run in found if run is not None]
    scored = [run for run in runs if run.outcome == SCORED]
    if not scored:
        raise DistillationError(f"{folder}: no run of these recipes was scored{_why(runs)}")
    names = {"control": CONTROL, "reference": REFERENCE}
    rows = compare.compared(runs, **names)
    written = compare.write(folder, rows, scored[0].metric, **names)
    table = compare.markdown(rows, scored[0].metric, **names)
    sys.stdout.write(f"\n{table}\n\nWritten: {', '.join(map(str, written))}\n")
    return int(any(run.outcome == FAILED for run in runs))


def _why(runs: Sequence[Run]) -> str:
    return f": {runs[0].name}: {runs[0].message}" if runs else "; run it without --report."
