"""The notebooks run, with few rows, in a kernel of their own: their plots are inline, and the Trainer's table for
notebooks shows our trainings. It needs the extras `quickstart` and `notebooks`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[2] / "recipes" / "notebooks"
FEW: dict[str, dict[str, int]] = {
    "quickstart": {"ROWS": 128, "TEST_ROWS": 64},
    "minilm": {"TEXTS": 24, "ROWS": 64, "TEST_ROWS": 48},
    "mobilebert": {"TEXTS": 16, "LAYERS": 2, "STEPS": 2, "ROWS": 48, "TEST_ROWS": 48},
}
"""What the first cell of each says, instead."""

PLOTS = {"quickstart": 2, "minilm": 2, "mobilebert": 1}

TABLES = {"quickstart": (3, 3), "minilm": (3, 2), "mobilebert": (4, 0)}
"""The trainings that the Trainer's tables show, and those whose tables have an accuracy."""


def read(name: str) -> Any:
    """The notebook as it is kept, which must be a valid one."""
    import nbformat

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def executed(name: str, folder: Path) -> Any:
    """The notebook after a run in `folder`."""
    from nbclient import NotebookClient  # an extra, which the fast tests do without

    notebook = read(name)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for size, number in FEW[name].items():
        first.source, replaced = re.subn(rf"(?m)^{size} = \d+", f"{size} = {number}", first.source)
        assert replaced == 1, size
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def shown(notebook: Any, kind: str) -> list[str]:
    """What the cells put out of a MIME type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.parametrize("name", sorted(FEW))
@pytest.mark.filterwarnings("default")  # of the client and its sockets; the notebook's own are in the kernel
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    notebook = executed(name, tmp_path)
    assert len(shown(notebook, "image/png")) == PLOTS[name]
    tables = [html for html in shown(notebook, "text/html") if "<progress" in html and "Training Loss" in html]
    evaluated = ["Validation Loss" in table and "Accuracy" in table for table in tables]
    assert (len(tables), sum(evaluated)) == TABLES[name]


@pytest.mark.parametrize("name", sorted(FEW))
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count is not None]
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FEW)
