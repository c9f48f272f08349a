"""`publish`: a finished student on the Hub, with its card and its record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_distill.commands import reports_errors
from hf_distill.commands.console import configure_logging
from hf_distill.commands.export import told
from hf_distill.commands.flags import CARD, refuse_tokens
from hf_distill.commands.help import Parser
from hf_distill.errors import RecipeError
from hf_distill.runs import Publication, publish_run
from hf_distill.runs.exporting import export_run
from hf_distill.runs.publishing import finished_record

DESCRIPTION = """Publishes the student of a finished run: weights, tokenizer, generation config, card and record.

The repository is made if it is missing, private unless --public is given. Nothing is sent that is there already, and
an upload that was broken off is finished by the same command. Log in first: `hf auth login`, or set HF_TOKEN."""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = Parser("publish", DESCRIPTION)
    made.add_argument("folder", type=Path, metavar="FOLDER", help="the output_dir of a finished run")
    made.add_argument("--repo_id", required=True, help="owner/name, or a name in your own name space")
    seen = made.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", default=True, help="for you and your organisation (default)")
    seen.add_argument("--public", dest="private", action="store_false", help="for everybody")
    where = made.add_argument_group("where, and as what")
    branch = where.add_mutually_exclusive_group()
    branch.add_argument("--revision", metavar="BRANCH", help="a branch, made if it is missing (default: main)")
    branch.add_argument("--create_pr", action="store_true", help="open a pull request in place of a commit on main")
    where.add_argument("--commit_message", default="Publish a distilled student", help="default: %(default)r")
    card = made.add_argument_group("what its card states, beside the record; without these, what it states already")
    for name, settings in CARD.items():
        card.add_argument(f"--{name}", **settings)
    what = made.add_argument_group("what else")
    what.add_argument(
        "--include_objective_state",
        action="store_true",
        help="also what the objectives learned, distillation.safetensors",
    )
    forms = made.add_argument_group("other forms, compared with the student, timed, and told of in the card")
    forms.add_argument("--onnx", action="store_true", help="a graph for ONNX Runtime, onnx/model.onnx")
    forms.add_argument("--int8", action="store_true", help="one with matrices in 8 bits, onnx/model_int8.onnx")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Publishes the folder and prints where; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    refuse_tokens(words)
    given, unknown = parser().parse_known_args(words)
    if unknown:  # without its value, which may be a secret
        name = unknown[0].partition("=")[0] if unknown[0].startswith("-") else "a second folder"
        raise RecipeError(f"command line: unknown argument {name}; --help lists the flags.")
    configure_logging()
    card = {name: getattr(given, name) for name in CARD}
    forms = _forms(given)
    if forms:  # they take minutes
        finished_record(given.folder.expanduser())
        Publication(given.repo_id, given.private, given.revision, **card).check()
    for name, found in export_run(given.folder, forms).items():
        sys.stdout.write(f"{name}: {told(found)}\n")
    done = publish_run(
        given.folder,
        given.repo_id,
        private=given.private,
        revision=given.revision,
        commit_message=given.commit_message,
        create_pr=given.create_pr,
        include_objective_state=given.include_objective_state,
        **card,
    )
    said = "Published" if done.changed else "Nothing to send; everything is there already"
    sys.stdout.write(f"{said}: {done.url} (commit {done.commit}, {len(done.files)} files)\n")
    return 0


def _forms(given: argparse.Namespace) -> list[str]:
    return [form for form, asked in (("onnx", given.onnx), ("onnx-int8", given.int8)) if asked]
