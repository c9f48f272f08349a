"""What a card tells a reader who wants to make a student again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import yaml

from hf_distill.hub.markdown import block, code, escaped, shell, table
from hf_distill.hub.record import Record, is_hub_id

AGAIN = "again"
"""The folder of the example."""

_SCRIPT = re.compile(r"distill_[a-z]+\.py")
_COMMAND = re.compile(r"[a-z][a-z-]*")


def reproduction(record: Record, repo_id: str | None) -> str:
    """The command that was given, the one that runs the record again, the recipe, and what is needed for it."""
    parts = []
    if record.command:
        parts.append(f"It was made by\n\n{shell(record.command)}")
    if record.recipe is not None:
        parts.append(_again(record, repo_id if repo_id and is_hub_id(repo_id) else "."))
    seeds = ", ".join(f"{escaped(name)} {seed}" for name, seed in record.seeds.items())
    told = "Everything that was set is in `distillation.json`." + (f" Seeds: {seeds}." if seeds else "")
    cut = " Paths outside the working directory are cut to their last part." if record.command else ""
    parts.append(told + cut)
    if record.recipe is not None:
        parts.append(f"The recipe, with every default:\n\n{block(_yaml(record.recipe), 'yaml')}")
    files = [[code(key), code(name), code(total)] for key, name, total in _files(record)]
    if files:
        parts.append(
            "Local files that went in, and are looked for in `--data_dir`:\n\n"
            + table(["in the recipe", "file", "sha256"], files)
        )
    return "\n\n".join(parts)


def emissions(record: Record) -> str:
    """The estimate of codecarbon, where it was at work."""
    found = record.emissions
    if found is None:
        return ""
    where = f" in {escaped(found.country)}" if found.country else ""
    return (
        f"Training the student took an estimated {found.kilowatt_hours:.3g} kWh{where}, "
        f"{1000 * found.kilograms:.3g} g of CO2 equivalent, in {found.seconds / 60:.1f} minutes. The estimate is "
        "codecarbon's, from the time, the kind of processor and that country's power (Canada's where it could not "
        "look the country up); the teacher's training is not in it."
    )


def _again(record: Record, source: str) -> str:
    flags = ["--reproduce", source, "--output_dir", AGAIN]
    start = _start(record.command)
    if start:
        return f"The record runs again with\n\n{shell([*start, *flags])}"
    program = f"from hf_distill import from_record\n\nfrom_record({source!r}, {AGAIN!r})"
    return f"The record runs again with\n\n{block(program, 'python')}"


def _start(command: Sequence[str]) -> list[str]:
    """What stands before the flags of a command: `hf-distill` and a name, or a script with its launcher; empty for
    programs of another kind."""
    if len(command) > 1 and PurePath(command[0]).name == "hf-distill" and _COMMAND.fullmatch(command[1]):
        return ["hf-distill", command[1]]
    scripts = (end for end, word in enumerate(command, 1) if _SCRIPT.fullmatch(PurePath(word).name))
    return list(command[: next(scripts, 0)])


def _files(record: Record) -> list[tuple[str, str, str]]:
    """Local files by what they are in the recipe, their names and sums; the sums of rows of the Hub are no files'."""
    found = [(key, name, total) for key, origin in record.origins.items() for name, total in origin.files.items()]
    if (record.recipe or {}).get("dataset_dir") is not None:
        sources = record.data.sources.values()
        found += [("dataset_dir", source.name, source.sha256) for source in sources if source.sha256 is not None]
    return sorted(set(found))


class _Dumper(yaml.SafeDumper):
    """Writes texts that could be taken for markup in quotes, in which `<` has an escape."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    quoted = '"' if any(c in "<>`&" or not c.isprintable() for c in value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=quoted)


_Dumper.add_representer(str, _text)


def _yaml(recipe: dict[str, Any]) -> str:
    """YAML that reads back as the recipe; its texts hold neither `<` nor a backtick."""
    text = yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=110)
    return text.replace("<", "\\x3C").replace("`", "\\x60")
