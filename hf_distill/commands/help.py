"""What `--help` shows: as wide as the terminal, ours first, and of the Trainer's flags the few that people use."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

from hf_distill.errors import RecipeError

ALL = "all"
"""The word behind `--help` for every flag."""

TRAINING = "training, the same for every stage (transformers.TrainingArguments)"
"""The title of the Trainer's own flags."""

USUAL = {
    "output_dir": "The folder of the run, and of the student when it is over.",
    "num_train_epochs": "Passes over the training rows.",
    "max_steps": "Steps of the optimizer, in place of --num_train_epochs.",
    "learning_rate": "The highest learning rate.",
    "per_device_train_batch_size": "Rows of a batch, in each process.",
    "gradient_accumulation_steps": "Batches of a step of the optimizer.",
    "bf16": "Compute in bfloat16, where the machine can.",
    "seed": "Of everything that is drawn at random.",
    "do_train": "Train. Without any --do_… a run trains and evaluates.",
    "do_eval": "Evaluate the student in --output_dir.",
    "do_predict": "Write its answers to the test rows.",
    "report_to": "Trackers: tensorboard, trackio, wandb (default: none).",
    "push_to_hub": "Publish the finished student.",
    "hub_model_id": "The repository: owner/name.",
}
"""The Trainer's flags that the short help shows, in this order, with what they do in a run."""

SHORT = 24
"""Letters of the choices that stand in place of a flag's value; more are listed behind its help."""


def program(name: str) -> str:
    """What was typed to start a command: the script, or `hf-distill <name>`."""
    typed, behind = PurePath(sys.argv[0]), name.partition(" ")[2]
    return f"{typed.name} {behind}".strip() if typed.parent.name == "scripts" else f"hf-distill {name}"


class Layout(argparse.HelpFormatter):
    """Paragraphs as wide as the terminal, those with indented lines as they stand, and each flag by one spelling with
    one short word for its value.
    """

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 34, **settings})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(
            textwrap.indent(block, indent)
            if block.startswith(" ") or "\n " in block
            else textwrap.fill(block, width, initial_indent=indent, subsequent_indent=indent)
            for block in blocks
        )

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        given = action.metavar
        return lambda number: given if isinstance(given, tuple) else (_value(action),) * number

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        listed = action.metavar is None and action.choices is not None and _value(action) != _listed(action)
        return f"{text} One of {_listed(action, ', ')}." if listed else text

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = self._format_args(action, _value(action)) if action.nargs != 0 else ""
        if action.nargs == "?" and action.const is True:
            value = ""  # a switch that takes true and false as well
        long = [spelling for spelling in action.option_strings if spelling.startswith("--")]
        return f"{long[0]} {value}".strip()


def _value(action: argparse.Action) -> str:
    """One short word for the value of a flag."""
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None and len(_listed(action)) <= SHORT:
        return _listed(action)
    if action.type in (int, float):
        return "N" if action.type is int else "X"
    if getattr(action.type, "__name__", "") == "whole":
        return "N"
    return action.dest.removesuffix("_name_or_path").removesuffix("_to").rpartition("_")[2].upper()


def _listed(action: argparse.Action, between: str = "|") -> str:
    """The choices of a flag."""
    return between.join(map(str, action.choices or ()))


class Parser(argparse.ArgumentParser):
    """A parser with this layout, which tells an error in one line instead of its usage."""

    def __init__(self, name: str, description: str, **settings: Any) -> None:
        super().__init__(
            prog=program(name), description=description, formatter_class=Layout, allow_abbrev=False, **settings
        )

    def error(self, message: str) -> NoReturn:
        """Raises: `RecipeError`."""
        raise RecipeError(f"command line: {message}; --help lists the flags.")


def page(name: str, usage: str, description: str) -> str:
    """What a command with a first word of its own says without it."""
    made = Parser(name, description, usage=f"%(prog)s {usage}", add_help=False)
    return made.format_help()


class ShowHelp(argparse.Action):
    """`--help` shows the usual flags, `--help all` every one."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs="?", choices=(ALL,), default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        sys.stdout.write(help_text(parser, every=args[1] == ALL))
        parser.exit()


def help_text(parser: argparse.ArgumentParser, *, every: bool) -> str:
    """The help of a parser with the Trainer's flags: all of them, or those of `USUAL`."""
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    formatter.add_text(parser.description)
    left_out = 0
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        shown = actions if every or group.title != TRAINING else _usual(actions)
        left_out += len(actions) - len(shown)
        formatter.start_section(group.title)
        formatter.add_arguments(shown)
        formatter.end_section()
    if not every:
        formatter.add_text(f"--help {ALL} lists {left_out} more flags, of the training. A dash may stand for each _.")
    return formatter.format_help()


def _usual(actions: Sequence[argparse.Action]) -> list[argparse.Action]:
    """Those of `USUAL`, in its order, without the `--no_…` of a switch."""
    by_flag = {action.option_strings[0].removeprefix("--"): action for action in actions}
    return [by_flag[name] for name in USUAL if name in by_flag]
