"""What the documentation says is so: links lead somewhere, code compiles, flags and messages exist."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache

import yaml

from hf_distill.commands import main as command_line
from hf_distill.commands.words import parsers_of
from hf_distill.recipe import Recipe
from tests.docs.pages import DOCS, PAGES, ROOT, Block, Call, anchors, blocks, calls, links, prose, spans, text_of

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    lost, seen = [], 0
    for page in PAGES:
        for target in links(page):
            path, _, anchor = target.partition("#")
            if re.match(r"\w+:", target):
                continue
            seen += 1
            file = page if not path else (page.parent / path).resolve()
            if not file.is_file() or (anchor and anchor not in anchors(file)):
                lost.append(f"{page.name}: {target}")
    assert not lost
    assert seen > 60


def test_pages_of_the_site_link_to_pages_of_the_site() -> None:
    outside = [(page.name, target) for page in DOCS.glob("*.md") for target in links(page) if target.startswith("..")]
    assert not outside


def test_the_navigation_has_every_page_once() -> None:
    named = re.findall(r"[\w-]+\.md", str(SITE["nav"]))
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))


def test_python_blocks_compile_and_import_what_there_is() -> None:
    found = blocks("python")
    assert len(found) > 10
    for block in found:
        for node in ast.walk(ast.parse(block.code, block.place)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_distill"):
                module = importlib.import_module(str(node.module))
                lost = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not lost, f"{block.place}: {node.module} has no {lost}"


def test_blocks_that_are_marked_run() -> None:
    marked = [block for block in blocks("python") if block.marker == "run"]
    for block in marked:
        exec(compile(block.code, block.place, "exec"), {})
    assert len(marked) >= 2


def test_yaml_blocks_are_recipes_or_parts_of_them() -> None:
    whole = 0
    for block in blocks("yaml"):
        data = yaml.safe_load(block.code)
        assert isinstance(data, dict), block.place
        if "schema" in data:
            whole += 1
            Recipe.from_dict(data)
        else:
            assert set(data) <= set(Recipe.model_fields), block.place
    assert whole >= 1


INLINE = [Block(page, 0, "", "bash", span) for page in PAGES for span in spans(page) if span.startswith("hf-distill ")]
CALLS = [call for block in (*blocks("bash"), *INLINE) for call in calls(block)]


@cache
def flags_of(module: str) -> dict[str, frozenset[str]]:
    """The flags that a command takes, by its first word if that chooses among several kinds, or by the empty word."""
    parsers = parsers_of(importlib.import_module(f"hf_distill.commands.{module}"))
    return {first: frozenset(parser._option_string_actions) for first, parser in parsers.items()}


def module_of(call: Call) -> str:
    """The module behind a command or a script; that the command is there is part of what is tested."""
    if not call.program.startswith("scripts/"):
        return command_line.COMMANDS[command_line.OTHER_NAMES.get(call.program, call.program)].module
    code = (ROOT / call.program).read_text(encoding="utf-8")
    found = re.search(r"from hf_distill\.commands\.(\w+) import main", code)
    return "" if found is None else found[1]


def test_commands_have_the_flags_that_are_given() -> None:
    checked = 0
    for call in CALLS:
        module = module_of(call)
        given = [word.partition("=")[0] for word in call.words if word.startswith("--")]
        if not given or not module:
            continue
        first = call.words[0] if not call.words[0].startswith("-") else ""
        flags = flags_of(module)
        unknown = set(given) - flags[first if first in flags else ""] - {"--help"}
        assert not unknown, f"{call.place}: {call.program} {first} has no {unknown}"
        checked += len(given)
    assert checked > 40


def test_flags_that_the_text_names_are_flags_of_a_command() -> None:
    named = {span.split()[0].partition("=")[0] for page in PAGES for span in spans(page) if span.startswith("--")}
    assert len(named) > 15
    known = {"--help"}
    for row in command_line.COMMANDS.values():
        known |= frozenset().union(*flags_of(row.module).values())
    assert not named - known


@cache
def messages() -> tuple[str, ...]:
    """Every text of the package, with `…` for what is filled in."""
    found = []
    for path in (ROOT / "hf_distill").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


QUOTED = re.findall(r"^### `(.*)`$", text_of(DOCS / "troubleshooting.md"), re.M)


def test_messages_of_the_troubleshooting_page_are_in_the_source() -> None:
    assert len(QUOTED) > 30
    gone = []
    for quoted in QUOTED:
        pattern = re.compile(".*?".join(re.escape(part) for part in quoted.split("…")), re.S)
        if not any(pattern.search(message) for message in messages()):
            gone.append(quoted)
    assert not gone


def test_files_that_are_named_exist() -> None:
    named = re.compile(r"`((?:scripts|recipes|hf_distill|tests|docs)/[\w./-]+)`")
    lost = []
    for page in PAGES:
        for name in named.findall(prose(page)):
            if not (ROOT / name).exists() and name != "hf_distill/objectives/response/jeffreys.py":
                lost.append(f"{page.name}: {name}")
    assert not lost


def test_the_rooms_of_the_reference_exist() -> None:
    named = re.findall(r"`(\w+(?:\.py|/))`", text_of(DOCS / "reference.md"))
    assert len(named) > 25
    assert not [name for name in named if not (ROOT / "hf_distill" / name).exists()]
