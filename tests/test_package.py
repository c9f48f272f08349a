"""What the wheel holds, and the public names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hf_distill
from hf_distill import objectives

ROOT = Path(__file__).parents[1]


def test_every_package_is_named_in_the_build() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hf_distill").rglob("__init__.py")}
    assert set(build["packages"]) == found | {"hf_distill.recipes"}
    assert build["package-dir"]["hf_distill.recipes"] == "recipes"


def test_the_public_names() -> None:
    assert set(hf_distill.__all__) >= {
        "Activations",
        "DistillationError",
        "DistillationTrainer",
        "LayerMap",
        "Recipe",
        "objectives",
        "run",
        "students",
        "teachers",
    }
    assert all(hasattr(hf_distill, name) for name in hf_distill.__all__)
    assert all(name in hf_distill.__all__ for name in ("SoftTargets", "Labels", "HiddenCosine", "HiddenMSE"))


def test_a_folder_that_an_older_version_left_hides_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode stays where a room was renamed, and its folder is a package to Python, without a file."""
    for name in ("run", "gone"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr(hf_distill, "__path__", [*hf_distill.__path__, str(tmp_path)])
    assert importlib.util.find_spec("hf_distill.run") is not None
    monkeypatch.delitem(vars(hf_distill), "run", raising=False)
    assert callable(hf_distill.run)
    assert not hasattr(hf_distill, "gone")


def test_every_objective_has_a_public_name() -> None:
    ours = [objectives.get(name) for name in objectives.names()]
    classes = {each.__name__ for each in ours if each.__module__.startswith("hf_distill.")}
    assert len(classes) >= 65
    assert classes - set(hf_distill.__all__) == set()
    assert classes - set(objectives.__all__) == set()
    assert len(hf_distill.__all__) == len(set(hf_distill.__all__))


@pytest.mark.slow
def test_the_wheel_carries_types_and_recipes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("hf_distill-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"hf_distill/py.typed", "hf_distill/recipes/quickstart.yaml", "hf_distill/recipes/schema.json"} <= names
    assert "hf_distill/evaluation/report.html.jinja" in names
    assert {f"hf_distill/recipes/glue/{path.name}" for path in (ROOT / "recipes/glue").glob("*.yaml")} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts"))]
