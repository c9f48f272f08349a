"""A student that scripts train, publish and pull: where hf_distill is not, and after an upload that was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tests import tiny_runs
from tests.hub.server import WRITER, Fault, Hub
from tests.hub.test_publish import environment
from tests.processes import own_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXTS = ["the film is very good", "a dull plot and so awful", "fine"]

PULL = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib.util, json
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
model = AutoModelForSequenceClassification.from_pretrained("me/student")
seen = []
model.register_forward_hook(lambda module, given, output: seen.append(output.logits.tolist()))
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained("me/student"))
answers = classify(json.loads(sys.argv[2]))
has_toolkit = importlib.util.find_spec("hf_distill") is not None
print(json.dumps({"answers": answers, "logits": seen, "has_toolkit": has_toolkit}))
"""


def call(hub: Hub, home: Path, *words: str, token: str = WRITER) -> subprocess.CompletedProcess[str]:
    """A command with a client of this Hub."""
    given = {**environment(hub, home / "cache"), "HF_TOKEN": token, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=given, capture_output=True, text=True, cwd=home, check=False)


def script(name: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / name)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `out`, that its script has finished."""
    folder = tmp_path_factory.mktemp("published")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.write_sst2(folder / "sst2")
    flags = ["--task_name", "sst2", "--dataset_dir", "sst2", "--teacher_name_or_path", "teacher", "--use_cpu"]
    with Hub() as hub:
        made = [*script("distill_glue.py"), *flags, "--student_layers", "1", "--max_steps", "2", "--output_dir", "out"]
        done = call(hub, folder, *made)
    assert done.returncode == 0, done.stderr
    return folder


def packages_without_the_toolkit(folder: Path) -> Path:
    """Links to all that is installed, but for hf_distill."""
    folder.mkdir()
    for place in {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}:
        for entry in Path(place).iterdir():
            if not entry.name.startswith(("hf_distill", "__editable__")) and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def answered(folder: Path) -> dict[str, Any]:
    """What the student of a folder answers here."""
    model, seen = AutoModelForSequenceClassification.from_pretrained(folder), []
    model.register_forward_hook(lambda module, given, output: seen.append(output.logits.tolist()))
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    return {"answers": classify(TEXTS), "logits": seen, "has_toolkit": False}


def test_a_student_pushed_by_the_script_answers_the_same_where_the_toolkit_is_not(home: Path) -> None:
    site = packages_without_the_toolkit(home / "site")
    with Hub(large=True) as hub:
        pushed = call(hub, home, *script("publish.py"), "out", "--repo_id", "me/student")
        assert pushed.returncode == 0, pushed.stderr
        pulled = call(hub, home, sys.executable, "-I", "-S", "-c", PULL, str(site), json.dumps(TEXTS))
        assert pulled.returncode == 0, pulled.stderr
        assert json.loads(pulled.stdout) == answered(home / "out")
        refused = call(hub, home, *script("publish.py"), "out", "--repo_id", "me/student", token="")
        assert refused.returncode == 2
        (told,) = own_lines(refused.stderr)
        assert "hf auth login" in told
        sent = b"".join(hub.repositories["me/student"].files.values())
    written = [path for path in home.rglob("*") if path.is_file() and not path.is_relative_to(site)]
    assert WRITER.encode() not in sent
    assert not [path for path in written if WRITER.encode() in path.read_bytes()]
    assert WRITER not in pushed.stdout + pushed.stderr + pulled.stdout + pulled.stderr


@pytest.mark.parametrize("place", ["/lfs/[0-9a-f]{64}$", "/preupload/", "/commit/"])
def test_an_upload_that_was_killed_is_finished_by_the_same_command(home: Path, place: str) -> None:
    reached, hold = threading.Event(), threading.Event()
    command = [*script("publish.py"), "out", "--repo_id", "me/killed"]
    with Hub(large=True) as hub:
        hub.faults = [Fault("PUT" if "lfs" in place else "POST", place, reached=reached, hold=hold)]
        given = {**environment(hub, home / "cache"), "HF_TOKEN": WRITER, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=given, cwd=home, stderr=subprocess.PIPE) as running:
            assert reached.wait(600), "the request never came"
            running.kill()
        hold.set()
        done = call(hub, home, *command)
        assert done.returncode == 0, done.stderr
        again = call(hub, home, *command)
        repository = hub.repositories["me/killed"]
        assert "Nothing to send" in again.stdout
        assert len(repository.commits) == 1
        here = {path.name: path.read_bytes() for path in (home / "out").iterdir() if path.name in repository.files}
        assert {name: content for name, content in repository.files.items() if name != ".gitattributes"} == here
        assert "model.safetensors" in here
