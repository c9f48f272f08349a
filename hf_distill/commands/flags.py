"""The flags of the `distill_…` scripts: of distillation, of the data, and every one of `TrainingArguments`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from hf_distill.access_tokens import redacted
from hf_distill.commands.help import TRAINING, USUAL, Layout, ShowHelp, program
from hf_distill.data.hypotheses import CHOICES
from hf_distill.errors import RecipeError
from hf_distill.loading import DTYPES
from hf_distill.students.layers import ALL_PICKS
from hf_distill.suggestions import nearest
from hf_distill.teachers.cache import codecs

TOKENS = ("token", "hub_token", "push_to_hub_token")

RULES = """A flag wins over the recipe, the recipe over the defaults. Run again with the same output_dir, it goes on
where it was broken off."""

Group = Mapping[str, dict[str, Any]]
"""Flags by name, and what `add_argument` takes for each."""


@dataclass(frozen=True)
class Flags:
    """What was really given: flags of distillation, and training arguments."""

    own: Mapping[str, Any]
    arguments: Mapping[str, Any]


class _Training(TrainingArguments):  # type: ignore[misc]
    _argument_group_name = TRAINING


class _Parser(HfArgumentParser):  # type: ignore[misc]
    """Tells an error in one line instead of the usage of two hundred flags."""

    def error(self, message: str) -> NoReturn:
        """Raises: `RecipeError`."""
        raise RecipeError(f"command line: {message}; --help lists the flags.")


def parse(argv: Sequence[str], parser: HfArgumentParser) -> Flags:
    """The flags of a command line, as a parser of `make_parser` takes them; what was not given is absent.

    Raises: `RecipeError` for an unknown flag, which names the nearest, for a value of the wrong kind, and for a token.
    """
    refuse_tokens(argv)
    namespace, unknown = parser.parse_known_args(list(argv))
    if unknown:
        name = unknown[0].partition("=")[0]  # without its value, which may be a secret
        flags = [flag for flag, action in parser._option_string_actions.items() if action.dest not in TOKENS]
        near = nearest(name, flags)
        parser.error(f"unknown argument {redacted(name)!r}" + ("" if near is None else f", did you mean {near}"))
    given = vars(namespace)
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    arguments = {name: value for name, value in given.items() if name in names}
    return Flags({name: value for name, value in given.items() if name not in names}, arguments)


def refuse_tokens(argv: Sequence[str]) -> None:
    """Raises: `RecipeError` if a token stands on the command line, where other users and the shell's history see
    it.
    """
    for word in argv:
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        if word.startswith("--") and (name in TOKENS or name.endswith("_token")):
            raise RecipeError(
                f"command line: --{name} is not taken, as others can read a command line: use `hf auth login`, or the "
                "environment variable HF_TOKEN."
            )


def make_parser(
    name: str, description: str, data: Group, distillation: Mapping[str, Group] | None = None
) -> HfArgumentParser:
    """The parser of the script `distill_<name>`, with the flags of its data, and those of distillation unless there
    are others in their place, by the title of their group. Nothing has a default, so that what was given can be told
    from what was not."""
    parser = _Parser(
        prog=program(name),
        usage="%(prog)s [flags]",
        description=f"{description}\n\n{RULES}",
        formatter_class=Layout,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=ShowHelp, help="Show the usual flags, or all of them.")
    usual = {"distillation": DISTILLATION, "reproduction": REPRODUCTION}
    card = {} if distillation else {"card, with --push_to_hub": CARD}
    groups = {**(distillation or usual), "data": {**data, **ROWS}, **card}
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for name, settings in flags.items():
            spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
            group.add_argument(*spellings, dest=name, **settings)
    parser._add_dataclass_arguments(_Training)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        if action.dest in TOKENS:
            action.help = argparse.SUPPRESS
        action.help = USUAL.get(action.dest, action.help)
    return parser


def names_in(text: str) -> list[str]:
    """`a,b` is a list of names."""
    found = [word.strip() for word in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names separated by commas")
    return found


def settings_in(text: str) -> dict[str, Any]:
    """A mapping in JSON."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping in JSON")
    return found


def layers_in(text: str) -> int | list[int]:
    """`3` is a number of layers, `1,3,5` are layers."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of layers, 3, nor a list of them, 1,3,5")
    return [int(part) for part in parts] if "," in text else int(parts[0])


def whole(text: str) -> int:
    """A number of 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def flag(help_: str, kind: Callable[[str], Any] = str, **settings: Any) -> dict[str, Any]:
    """What `add_argument` takes for a flag."""
    return {"help": help_, "type": kind, **settings}


DISTILLATION: Group = {
    "recipe": flag("A recipe: a .yaml file, or the name of a shipped one (quickstart, glue/sst2 …)."),
    "teacher_name_or_path": flag("The teacher, trained for the task: a folder or an id on the Hub."),
    "fine_tune_teacher": {
        "help": "Train the teacher that is named first, as the recipe says of its own (teacher.fine_tune); without it "
        "a teacher that is named is not trained.",
        "action": "store_true",
    },
    "teacher_revision": flag("Branch, tag or commit of the teacher."),
    "teacher_dtype": flag("What the teacher is held and computed in, bfloat16 for example.", choices=list(DTYPES)),
    "cache_teacher": flag(
        "Write what the teacher shows of the training rows into this folder (by default one in output_dir), where it "
        "is not there yet, and train from it without the teacher in memory.",
        nargs="?",
        const="",
        metavar="FOLDER",
    ),
    "cache_codec": flag(
        "How states and a vocabulary's logits are written (default: float16). Of language models it is the last "
        "hidden state, with top_k the largest logits.",
        choices=codecs.names(),
    ),
    "cache_settings": flag('Settings of the codec in JSON: \'{"k": 64, "temperatures": [1.0]}\'.', settings_in),
    "student_name_or_path": flag("The student to start from: a folder or an id on the Hub."),
    "student_revision": flag("Branch, tag or commit of the student."),
    "student_layers": flag(
        "Build the student from layers of the teacher: how many (3), or which, counted from 1 (1,3,5).", layers_in
    ),
    "student_pick": flag("Which layers a number stands for.", choices=ALL_PICKS),
    "temperature": flag("Temperature of the soft targets.", float),
    "alpha": flag("Weight of the soft targets, from 0 to 1; the labels weigh 1 - alpha.", float),
    "control": {
        "help": "Compare with the same student without its teacher: trained on the labels alone, or, where there are "
        "none, as it starts.",
        "action": "store_true",
    },
    "resume_despite": flag(
        "What may differ from the run that is gone on with: world_size (the number of processes), teacher (its "
        "weights).",
        names_in,
    ),
    "trust_remote_code": {
        "help": "Run the Python code of the models' repositories, of the commits given as revisions.",
        "action": "store_true",
    },
}

REPRODUCTION: Group = {
    "reproduce": flag(
        "Run the record of a finished student again, from its folder or its repository on the Hub (owner/name, or "
        "owner/name@revision), with nothing else changed.",
        metavar="FOLDER|REPO",
    ),
    "data_dir": flag("Where the files and folders are that the record has by name; goes with --reproduce."),
}
"""Flags that say that a record is run, and where its files are now."""

CARD: Group = {
    "language": flag("Language of the data, or several: de or de,en. Without it the card states none.", names_in),
    "license": flag(
        "The student's licence as the Hub spells it, mit for example. Without it that of the teacher and of the model "
        "that the student starts from, where it is one."
    ),
    "tags": flag("Further tags of the repository: reviews,films.", names_in),
}
"""What is stated in the card of a student that is published."""

FILES: Group = {
    "train_file": flag("Rows of your own to train on (.jsonl, .json, .csv, .tsv, .parquet, also .gz)."),
    "validation_file": flag("Rows to validate on; without them a tenth of the training rows."),
    "test_file": flag("Rows to test on, or to predict."),
}
"""Files of one's own, for the scripts that take any."""

HUB: Group = {
    "dataset_name": flag("A data set on the Hub: its splits train, validation (else a tenth of train), and test."),
    "dataset_config_name": flag("Its configuration."),
    "dataset_revision": flag("Its branch, tag or commit."),
}
"""A data set of the Hub, for the scripts that take any."""

ON_POLICY: Group = {
    "student_share": flag(
        "The share of the steps, from 0 to 1, that train on texts which the student writes behind the prompts of the "
        "data (GKD).",
        float,
    ),
    "on_policy": flag(
        'Further settings of this in JSON: \'{"temperature": 0.9, "max_new_tokens": 64, "teacher_share": 0.1}\'.',
        settings_in,
    ),
}
"""Texts that are written while a student trains, for the scripts of models that write."""

WRITING: Group = {
    "generated_folder": flag("Where what the teacher writes is kept (default: in the folder of the run)."),
    "num_beams": flag("Beams of the teacher's search (default: 5).", whole),
    "num_hypotheses": flag("The best ones that are kept of each row (default: 1).", whole),
    "max_new_tokens": flag("Tokens of what it writes at most (default: 128).", whole),
    "generated_drawing": flag(
        'Draw the tokens of its texts in place of the search, in JSON: \'{"temperature": 0.8, "top_p": 0.95}\'.',
        settings_in,
    ),
    "generated_filters": flag(
        'Which of its texts are learned, in JSON: \'{"max_repetition": 0.3, "distinct": true}\'.', settings_in
    ),
    "targets": {
        "help": "What stages learn: the texts of the data, or of what the teacher writes the best one, the nearest to "
        "that of the data, or all.",
        "choices": ["reference", *CHOICES],
    },
}
"""Texts that the teacher writes before the training, for the scripts of models that write."""

WRITING_KEYS = {
    "generated_folder": "folder",
    "num_beams": "beams",
    "num_hypotheses": "hypotheses",
    "max_new_tokens": "max_new_tokens",
    "generated_drawing": "drawing",
    "generated_filters": "filters",
}
"""Where these stand below `teacher.generate`."""

ROWS: Group = {
    "max_train_samples": flag("Use so many training rows at most.", whole),
    "max_eval_samples": flag("Use so many validation rows at most.", whole),
    "max_predict_samples": flag("Use so many test rows at most.", whole),
    "tokens_per_batch": flag(
        "The most cells of a batch, padding included: many short rows or few long ones, in place of "
        "--per_device_train_batch_size.",
        whole,
    ),
    "max_seq_length": flag("Tokens of a row, the special ones included; longer texts are cut.", whole),
}
