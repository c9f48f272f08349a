"""The floors of the house: a room imports only from rooms below it, and a few rooms alone name families or write
files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hf_distill
from hf_distill.families import FAMILIES

ROOT = Path(hf_distill.__file__).parent
FLOORS = (
    "version",
    "errors",
    "access_tokens",
    "locks",
    "ranks",
    "writing",
    "suggestions",
    "splitmix",
    "written_shares",
    "shards",
    "activations",
    "losses",
    "drawn_tokens",
    "parameter_groups",
    "top_logits",
    "pooling",
    "sentences",
    "model_sizes",
    "relations",
    "chunks",
    "layer_map",
    "families",
    "anatomy",
    "taps",
    "reach",
    "tasks",
    "member_logits",
    "loading",
    "sentence_modules",
    "depth",
    "capture",
    "passes",
    "objectives",
    "teachers",
    "students",
    "data",
    "vocabulary",
    "word_answers",
    "evaluator",
    "distillation",
    "monitor",
    "checks",
    "checkpoints",
    "evaluation",
    "hub",
    "training",
    "trainer",
    "recipe",
    "runs",
    "inspection",
    "search",
    "commands",
    "public",
)
"""Bottom first. `hf_distill/__init__.py` stands on top of all."""

FILES = {path.relative_to(ROOT).as_posix(): path for path in ROOT.rglob("*.py")}
NAMES_FAMILIES = ("families.py", "students/")
WRITES_FILES = (
    "hub/",
    "checkpoints/",
    "data/",
    "runs/",
    "search/",
    "commands/",
    "evaluation/compare.py",
    "evaluation/report.py",
    "inspection/memory.py",
    "teachers/cache/",
    "writing.py",
)
PICKS = {"distilbert", "mobilebert", "ib_bert"}
"""Family names that also name a choice of layers, or a way to make a student, in recipes and on the command line."""


def module_of(name: str) -> str:
    """`objectives/base.py` is `objectives.base`, `objectives/__init__.py` is `objectives`."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".").removesuffix("__init__")


MODULES = {module_of(name): name for name in FILES}


def runtime_imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports anywhere in a file, those inside functions included, but not those for type checkers alone."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def imported(name: str, tree: ast.Module) -> set[str]:
    """The modules of the package that a file imports, without the leading `hf_distill`."""
    found = set()
    for node in runtime_imports(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "hf_distill"}
            continue
        base = node.module or ""
        if node.level:
            package = f"hf_distill.{module_of(name)}".split(".")
            package = package if name.endswith("__init__.py") else package[:-1]
            base = ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
        if base.split(".")[0] != "hf_distill":
            continue
        for alias in node.names:
            whole = f"{base}.{alias.name}".removeprefix("hf_distill.")
            found.add(f"hf_distill.{whole}" if whole in MODULES else base)
    return {module.removeprefix("hf_distill").removeprefix(".") for module in found}


def room(module: str) -> str:
    return module.split(".")[0]


@cache
def trees() -> dict[str, ast.Module]:
    """The source of every file; read by the tests, as every process that collects them would else wait for it."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


@cache
def imports() -> dict[str, set[str]]:
    """The modules that every file imports."""
    return {name: imported(name, tree) for name, tree in trees().items()}


# ---- the readers of the source, on made-up source ----


def test_imports_are_read_in_all_their_forms() -> None:
    source = """
import os, hf_distill.losses
from hf_distill import errors, Recipe
from hf_distill.objectives import base
from hf_distill.objectives.pair import Pair
from .terms import Term
from . import pair
from ..activations import Signal
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from hf_distill.trainer import DistillationTrainer
def late():
    from hf_distill.tasks import Task
"""
    found = imported("objectives/made_up.py", ast.parse(source))
    expected = {
        "losses",
        "errors",
        "",
        "objectives.base",
        "objectives.pair",
        "objectives.terms",
        "activations",
        "tasks",
    }
    assert found == expected


def test_writes_are_read_in_all_their_forms() -> None:
    reads = (
        "open(a)",
        "open(a, 'rb')",
        "path.open()",
        "path.open('r')",
        "archive.open(wax, mode='r')",
        "path.read_text()",
    )
    writing = ("open(a, 'w')", "open(a, mode='ab')", "path.open('x')", "path.open('r+b')", "path.write_text(t)")
    writing += ("save_file(s, p)", "data.to_json(p)", "os.replace(a, b)", "shutil.copy(a, b)", "torch.save(m, p)")
    assert [source for source in reads if writes(ast.parse(source))] == []
    assert [source for source in writing if not writes(ast.parse(source))] == []


# ---- floors ----


def test_every_room_has_a_floor() -> None:
    rooms = {room(module) for module in MODULES if module}
    assert rooms - set(FLOORS) == set()


def test_imports_go_down() -> None:
    floors = {name: FLOORS.index(room(module)) for module, name in MODULES.items() if room(module)}
    above = {
        name: {module for module in imports()[name] if not module or FLOORS.index(room(module)) > floor}
        for name, floor in floors.items()
    }
    assert {name: modules for name, modules in above.items() if modules} == {}


def test_files_of_one_room_import_each_other_without_circles() -> None:
    """The package's `__init__` may import its files, and they may import their neighbours by name."""
    graph = {module: {target for target in imports()[name] if target in MODULES} for module, name in MODULES.items()}
    assert circle(graph) == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of imports, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module]):
            found = walk(target, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


# ---- what only some rooms do ----


def test_no_objective_imports_another() -> None:
    methods = {
        module
        for module, name in MODULES.items()
        if room(module) == "objectives" and name.count("/") == 2 and not name.endswith("__init__.py")
    }
    assert len(methods) >= 4
    found = {module: imports()[MODULES[module]] & methods for module in methods}
    assert {module: others for module, others in found.items() if others} == {}


def families(tree: ast.Module) -> set[str]:
    """The names of families among the texts of a file."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return texts & set(FAMILIES) - PICKS


def test_only_some_rooms_name_families() -> None:
    named = {name: families(tree) for name, tree in trees().items() if not name.startswith(NAMES_FAMILIES)}
    assert {name: found for name, found in named.items() if found} == {}


def writes(tree: ast.Module) -> list[str]:
    """Calls that write, move or open for writing, as source text."""
    names = ("write_text", "write_bytes", "save_file", "to_json", "to_csv", "to_parquet", "save_pretrained")
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        text = ast.unparse(node)
        moved = text.startswith(("os.replace(", "os.rename(", "shutil.", "torch.save("))
        if called in names or moved or (called == "open" and opens_to_write(node)):
            found.append(text)
    return found


def opens_to_write(call: ast.Call) -> bool:
    """Whether `open(path, mode)`, or `path.open(mode)`, has a mode that writes."""
    place = 0 if isinstance(call.func, ast.Attribute) else 1
    modes = [*call.args[place : place + 1], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    values = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return any(set(value) <= set("rwaxbt+") and set(value) & set("wax+") for value in values)


def test_only_some_rooms_write_files() -> None:
    written = {name: writes(tree) for name, tree in trees().items() if not name.startswith(WRITES_FILES)}
    assert {name: calls for name, calls in written.items() if calls} == {}
