"""bash completes a command line with the script of `hf-distill completion bash`, and the command line starts fast."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill import objectives
from hf_distill.commands import completion
from hf_distill.commands.main import COMMANDS
from hf_distill.commands.words import known_words
from hf_distill.recipe import shipped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine"),
]

DRIVER = r"""
set -u
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMPREPLY=()
eval "$(complete -p hf-distill | sed 's/.*-F \([^ ]*\) .*/\1/')"
printf '%s\n' "${COMPREPLY[@]+"${COMPREPLY[@]}"}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "hf-distill"
    path.write_text(completion.bash("# head\n", known_words()), encoding="utf-8")
    return path


def completed(script: Path, *typed: str) -> list[str]:
    """What bash offers for the last word, which may be empty. No Python can be started: PATH has tools alone."""
    words = ["bash", "--norc", "-c", DRIVER, "bash", str(script), "hf-distill", *typed]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert done.stderr == ""
    return done.stdout.split()


def test_commands(script: Path) -> None:
    assert completed(script, "") == [*COMMANDS, *completion.TOP]
    assert completed(script, "obj") == ["objectives"]
    assert completed(script, "help", "gl") == ["glue"]
    assert completed(script, "help", "compare", "q") == ["qa"]
    assert completed(script, "nothing", "--") == []


def test_flags_by_command_and_first_word(script: Path) -> None:
    assert completed(script, "glue", "--student_l") == ["--student_layers"]
    assert completed(script, "glue", "--learning_") == ["--learning_rate"]
    assert completed(script, "glue", "--doc_s") == []
    assert completed(script, "qa", "--doc_s") == ["--doc_stride"]
    assert completed(script, "compare", "") == ["glue", "ner", "qa"]
    assert completed(script, "compare", "glue", "--further") == ["--further_teachers"]
    assert completed(script, "compare", "glue", "--temp") == []
    assert completed(script, "generate-targets", "--target_c") == ["--target_column"]


def test_values(script: Path) -> None:
    assert completed(script, "glue", "--recipe", "glue/s") == ["glue/sst2", "glue/stsb"]
    assert completed(script, "glue", "--recipe", "=", "quick") == ["quickstart"]
    by_place, measured = ["spread", "uniform", "first", "last", "distilbert"], ["importance", "loss_rise"]
    assert completed(script, "glue", "--student_pick", "=") == [*by_place, *measured]
    assert completed(script, "glue", "--teacher_name_or_path", "") == []  # files, which bash knows
    assert completed(script, "glue", "--seed", "1", "--task_name", "r") == ["rte"]
    reviewed = [name for name in shipped() if name.startswith("review/p")]
    assert completed(script, "compare", "qa", "--recipes", "review/cka", "review/p") == reviewed
    assert completed(script, "objectives", "mini") == [name for name in objectives.names() if name.startswith("mini")]
    assert completed(script, "completion", "") == ["bash", "zsh", "fish"]


def test_the_overview_loads_no_library() -> None:
    code = (
        "import sys; from hf_distill.commands.main import main; main(['--help']); main(['glu']); "
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_trainer_does_not_wait_for_what_recipes_need() -> None:
    code = (
        "import sys; from hf_distill import DistillationTrainer, SoftTargets; "
        "assert not {'evaluate', 'sklearn', 'hf_distill.recipe', 'hf_distill.runs'} & set(sys.modules); "
        "from hf_distill import Recipe, run; assert Recipe.load('quickstart') and callable(run)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_shows_its_names_in_any_order() -> None:
    """Also where a room was imported first."""
    code = (
        "import hf_distill.runs.folder, hf_distill; from hf_distill import *; "
        "assert run is hf_distill.run and callable(run); assert SoftTargets is hf_distill.objectives.SoftTargets; "
        "assert hf_distill.tasks.TASKS and set(hf_distill.__all__) <= set(dir(hf_distill)); "
        "assert not hasattr(hf_distill, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
