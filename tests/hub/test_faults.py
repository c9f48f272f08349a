"""A fault of every kind at every endpoint: a clear error or the same tree, and always the same tree the next time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hf_distill.errors import HubError
from hf_distill.hub.client_errors import WAITS
from hf_distill.hub.folder import select
from hf_distill.hub.publish import Published, publish
from hf_distill.hub.record import Record
from hf_distill.hub.source import record_from
from hf_distill.loading import load_model
from tests import tiny

from .conftest import tiny_student
from .server import WRITER, Fault, Hub

ENDPOINTS = {
    "create": ("POST", r"/api/repos/create$"),
    "look": ("GET", r"/api/models/me/{name}$"),
    "branch": ("POST", r"/{name}/branch/"),
    "revision": ("GET", r"/{name}/revision/"),
    "tree": ("GET", r"/{name}/tree/"),
    "preupload": ("POST", r"/{name}/preupload/"),
    "batch": ("POST", r"/{name}\.git/info/lfs/objects/batch$"),
    "upload": ("PUT", r"/{name}/lfs/"),
    "verify": ("POST", r"/{name}/lfs/verify$"),
    "commit": ("POST", r"/{name}/commit/"),
}
COMMON: tuple[int | str, ...] = (403, 503, "before", "after")
OTHERS: tuple[int | str, ...] = (400, 401, 404, 408, 409, 412, 429, 500, 502)
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, for large files

PASSING = (408, 429, 500, 502, 503, "before", "after")


def faulty(name: str, endpoint: str, how: int | str, times: int = 1) -> Fault:
    method, path = ENDPOINTS[endpoint]
    what: dict[str, Any] = {"status": how} if isinstance(how, int) else {"cut": how}
    return Fault(method, path.format(name=name), times=times, **what)


def attempted(folder: Path, name: str) -> Published | HubError:
    try:
        return publish(folder, f"me/{name}", revision="dev", sleep=lambda seconds: None)
    except HubError as error:
        return error


def holds(hub: Hub, name: str, folder: Path) -> bool:
    """Whether the branch has exactly the files of the folder."""
    files = hub.repositories[f"me/{name}"].branches["dev"][-1].files
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in files.items() if path != ".gitattributes"}
    return sums == {path: file.sha256 for path, file in select(folder).items()}


def check(hub: Hub, folder: Path, endpoint: str, how: int | str) -> None:
    """One fault, and then none."""
    name = f"{endpoint}-{how}"
    hub.faults = [faulty(name, endpoint, how)]
    came = attempted(folder, name)
    assert hub.faults[0].times == 0, f"{name}: the fault was never met"
    if isinstance(came, HubError):
        assert str(came).startswith(f"me/{name}: "), came
        assert how not in PASSING, came
        assert "\n" not in str(came)
        assert WRITER not in str(came)
    else:
        assert holds(hub, name, folder)
    again = attempted(folder, name)
    assert isinstance(again, Published), again
    assert again.changed == isinstance(came, HubError)
    assert holds(hub, name, folder)
    assert len(hub.repositories[f"me/{name}"].branches["dev"]) == 2, f"{name}: one commit after the first, empty one"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault_ends_in_an_error_or_in_the_same_tree(hub: Hub, student_folder: Path, endpoint: str) -> None:
    for how in COMMON:
        check(hub, student_folder, endpoint, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_further_faults_do_so_too(hub: Hub, student_folder: Path, endpoint: str, how: int | str) -> None:
    check(hub, student_folder, endpoint, how)


def test_a_hub_that_stays_down_is_told_and_nothing_is_half_published(hub: Hub, student_folder: Path) -> None:
    hub.faults = [faulty("down", "upload", 503, times=999)]
    came = attempted(student_folder, "down")
    assert isinstance(came, HubError)
    assert "me/down: the Hub answered 503" in str(came)
    assert f"tried {len(WAITS) + 1} times" in str(came)
    assert len(hub.repositories["me/down"].branches["dev"]) == 1


def test_files_go_into_a_folder_of_the_repository(hub: Hub, student_folder: Path) -> None:
    hub.create("me/many", private=True, files={"step-1/model-00001-of-00002.safetensors": b"old", "step-1/notes": b""})
    done = publish(student_folder, "me/many", path_in_repo="step-1/")
    assert done.changed
    assert not publish(student_folder, "me/many", path_in_repo="step-1/").changed
    wanted = {f"step-1/{name}" for name in select(student_folder)}
    assert set(hub.repositories["me/many"].files) == wanted | {".gitattributes", "step-1/notes"}


@pytest.mark.parametrize("how", [401, 403, 404, 429, 500, 503, "before", "after"])
def test_a_record_is_read_from_the_hub_or_said_why_not(hub: Hub, student_folder: Path, how: int | str) -> None:
    content = (student_folder / "distillation.json").read_bytes()
    hub.create(f"me/read-{how}", private=True, files={"distillation.json": content})
    what: dict[str, Any] = {"status": how} if isinstance(how, int) else {"cut": how}
    hub.faults = [Fault("GET", f"/me/read-{how}/resolve/", **what)]
    record = Record.read(student_folder)
    if how in PASSING:
        assert record_from(f"me/read-{how}", sleep=lambda seconds: None) == record
    else:
        with pytest.raises(HubError, match=rf"^me/read-{how}: the Hub answered {how}"):
            record_from(f"me/read-{how}", sleep=lambda seconds: None)
    assert hub.faults[0].times == 0
    assert record_from(f"me/read-{how}@main") == record


def test_a_repository_without_a_record_is_told(hub: Hub) -> None:
    hub.create("me/bare", private=False, files={"config.json": b"{}"})
    with pytest.raises(HubError, match=r"^me/bare: there is no distillation\.json"):
        record_from("me/bare")
    with pytest.raises(HubError, match=r"^me/nowhere: the Hub answered 404"):
        record_from("me/nowhere")
    with pytest.raises(HubError, match=r"no repository on the Hub can have that name"):
        record_from("/no/such/folder")


def test_a_token_stays_on_the_hub_when_weights_lie_elsewhere(hub: Hub, student_folder: Path) -> None:
    """A private teacher: configuration and tokenizer come from the Hub, the weights from another host, to which it
    sends whoever has the right to them."""
    publish(student_folder, "me/private-teacher", private=True)
    before = len(hub.hosts)
    model = load_model("me/private-teacher", "AutoModelForSequenceClassification", role="teacher")
    assert tiny.distance(model, tiny_student()) == 0.0
    seen = hub.hosts[before:]
    assert {token for host, token in seen if host == "127.0.0.1"} == {f"Bearer {WRITER}"}
    assert [token for host, token in seen if host == "localhost"] == [""]
