"""Names, settings and discovery."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_distill import objectives
from hf_distill.errors import DistillationError
from hf_distill.objectives import HiddenCosine, Objective, SoftTargets, register
from hf_distill.objectives.settings import check_choice, check_flag, check_number

METHOD = '''
from hf_distill.objectives.base import Objective
from hf_distill.objectives.registry import register

@register("made_up")
class MadeUp(Objective):
    """A method that lies in a file of its own."""
'''
COPY = """
import sys
import hf_distill.objectives as objectives
from hf_distill.objectives import relation

assert objectives.__file__.startswith(sys.argv[1]), objectives.__file__
assert relation.__file__.startswith(sys.argv[1])
assert objectives.get("made_up").__module__ == "hf_distill.objectives.relation.made_up"
print(" ".join(objectives.names()))
"""


def test_names_are_sorted_and_found() -> None:
    names = objectives.names()
    assert names == sorted(names)
    assert {"soft_targets", "labels", "hidden_cosine", "hidden_mse"} <= set(names)
    assert all(objectives.get(name).name == name for name in names)


def test_make_passes_settings_on() -> None:
    objective = objectives.make("soft_targets", {"temperature": 4.0, "kind": "jsd"})
    assert isinstance(objective, SoftTargets)
    assert objective.settings() == SoftTargets(temperature=4.0, kind="jsd").settings()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "soft_target",
            {},
            r"unknown objective 'soft_target' \(did you mean 'soft_targets'\?\); .* are .*labels",
        ),
        ("xyzzy", {}, r"unknown objective 'xyzzy'; the objectives are"),
        (
            "soft_targets",
            {"temprature": 2},
            r"no setting 'temprature' \(did you mean 'temperature'\?\); .* are kind",
        ),
        ("labels", {3: 1}, r"no setting 3; its settings are label_smoothing"),
    ],
)
def test_unknown_names_and_settings_name_the_nearest(name: str, settings: dict[Any, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make(name, settings)


@pytest.mark.parametrize("name", ["soft_targets", "Made", "made-up", "", "2d"])
def test_a_name_is_free_and_snake_case(name: str) -> None:
    with pytest.raises(DistillationError, match="is taken or not snake_case"):
        register(name)(type("Other", (Objective,), {}))
    assert objectives.get("soft_targets") is SoftTargets


def test_settings_are_keywords() -> None:
    with pytest.raises(TypeError):
        HiddenCosine("final")  # type: ignore[misc]


@pytest.mark.slow
def test_a_file_with_one_register_line_is_enough(tmp_path: Path) -> None:
    """In a copy of the package: a new file below a room is found without any other change."""
    package = Path(objectives.__file__).parents[1]
    for source in package.rglob("*.py"):
        target = tmp_path / "hf_distill" / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (tmp_path / "hf_distill" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "hf_distill" / "objectives" / "relation" / "made_up.py").write_text(METHOD, encoding="utf-8")
    command = [sys.executable, "-c", COPY, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {*objectives.names(), "made_up"}


def test_check_number_takes_numbers_only() -> None:
    check_number("o", "s", 1, 0.0, 1.0)
    check_number("o", "s", 0, 0.0, 1.0)
    for bad in (True, "1", None, float("nan"), 1.0001, -1):
        with pytest.raises(DistillationError, match="o: s is"):
            check_number("o", "s", bad, 0.0, 1.0)
    with pytest.raises(DistillationError, match="above 0"):
        check_number("o", "s", 0.0, 0.0, 1.0, open_low=True)


def test_check_flag_takes_flags_only() -> None:
    for value in (True, False):
        check_flag("made_up", "normalize", value)
    for other in (1, 0, "yes", None):
        with pytest.raises(DistillationError, match=f"made_up: normalize is {other!r}; it may be true or false"):
            check_flag("made_up", "normalize", other)


def test_check_choice_names_the_nearest() -> None:
    check_choice("o", "s", "a", ("a", "b"))
    for bad in (None, 3, ["a"], "c"):
        with pytest.raises(DistillationError, match="it may be a, b"):
            check_choice("o", "s", bad, ("a", "b"))
