"""A Hub on the loopback interface: repositories in memory, faults on request, a log of every request.

It serves the endpoints that huggingface_hub uses to create, fill, look at and load model repositories, and those with
which `datasets` reads data sets; a repository is either, as it is asked for. Every file is taken `regular` (base64
inside the commit), or, if asked, the weights as large files (LFS), which lie on another host (`localhost` in place of
`127.0.0.1`); xet is never served.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .metadata import problems_of

TOKENS = {
    "hf_writerwriterwriterwriterwriter01": ("me", "write"),
    "hf_readerreaderreaderreaderreader01": ("me", "read"),
}
WRITER, READER = TOKENS
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Fault:
    """What to do with the next `times` requests that match: answer `status`, or cut the connection.

    `cut` is `"before"` the request is handled or `"after"` it; `corrupt` flips a byte of the first file of a commit;
    `reached` and `hold` are events: set when the request comes, and waited for before it is answered.
    """

    method: str
    path: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    corrupt: bool = False
    reached: threading.Event | None = None
    hold: threading.Event | None = None


@dataclass
class Commit:
    """One commit: its message and all files after it."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Branches and pull requests (`refs/pr/N`) are lists of commits, oldest first; `blobs` are large files by their
    SHA-256.
    """

    private: bool
    branches: dict[str, list[Commit]]
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def commits(self) -> list[str]:
        """Messages on the main branch after the first, empty commit."""
        return [commit.message for commit in self.branches["main"][1:]]

    @property
    def files(self) -> dict[str, bytes]:
        """The files on the main branch."""
        return self.branches["main"][-1].files

    def at(self, revision: str) -> Commit | None:
        """The head of a branch, or a commit by its oid."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for branch in self.branches.values() for c in branch if c.oid == revision), None)


class RefusalError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str, code: str = "", body: Any = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class Hub:
    """The server. `url` is for HF_ENDPOINT; `repositories`, `faults` and `log` may be read and set by tests. With
    `large`, weights are uploaded by themselves (LFS) and not inside the commit. `hosts` has of each request the host
    that it was sent to and what was in its `Authorization`.
    """

    def __init__(self, large: bool = False) -> None:
        self.large = large
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.hosts: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.counter = 0
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def requests(self, repo_id: str) -> list[tuple[str, str]]:
        """The requests that named a repository."""
        return [(method, path) for method, path in self.log if f"/{repo_id}" in path]

    def create(self, repo_id: str, private: bool, files: dict[str, bytes] | None = None) -> Repository:
        """Make a repository with one commit, as the Hub does."""
        first = self.commit("initial commit", {".gitattributes": b"", **(files or {})})
        self.repositories[repo_id] = Repository(private, {"main": [first]})
        return self.repositories[repo_id]

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        """A commit with an oid of its own."""
        self.counter += 1
        return Commit(hashlib.sha1(f"{self.counter}{message}".encode()).hexdigest(), message, files)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The first fault that matches, used up by one."""
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


def git_oid(content: bytes) -> str:
    """The name git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each answer waits for a delayed acknowledgement

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; the log is `Hub.log`."""

    def _handle(self) -> None:
        self.body = self._read()
        with self.hub.lock:
            self.hub.log.append((self.command, self.path))
            host = self.headers.get("Host", "").partition(":")[0]
            self.hub.hosts.append((host, self.headers.get("Authorization", "")))
            fault = self.hub.fault_for(self.command, self.path)
        if fault and fault.reached and fault.hold:  # outside of the lock: others are served meanwhile
            fault.reached.set()
            fault.hold.wait(60)
        with self.hub.lock:
            if fault and fault.cut == "before":
                return self._cut()
            try:
                if fault and fault.status:
                    raise RefusalError(fault.status, "injected")
                answer = self._route(corrupt=bool(fault and fault.corrupt))
            except RefusalError as error:
                return self._refuse(error, fault.headers if fault else {})
            if fault and fault.cut == "after":
                return self._cut()
        if isinstance(answer, tuple):
            self._send(*answer)
        else:
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        return None

    do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815

    def _read(self) -> bytes:
        """The body, in one piece or in chunks, as files are sent."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _cut(self) -> None:
        self.close_connection = True

    def _refuse(self, error: RefusalError, headers: dict[str, str]) -> None:
        body = error.body if error.body is not None else {"error": error.message}
        code = {"X-Error-Code": error.code} if error.code else {}
        self._send(error.status, json.dumps(body).encode(), {"X-Error-Message": error.message, **code, **headers})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Routes

    def _route(self, corrupt: bool) -> Any:
        url = urlsplit(self.path)
        path, self.query = url.path, parse_qs(url.query)
        self.user = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if path == "/api/whoami-v2":
            return self._whoami()
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            return self._validate()
        if match := re.fullmatch(r"/([^/]+/[^/.]+)(?:\.git/info)?/lfs/(objects/batch|verify|[0-9a-f]{64})", path):
            return self._large(match[1], match[2])
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path):
            repo_id, action, rest = match.groups()
            revision, _, folder = (rest or "main").partition("/")
            return self._model(repo_id, action or "info", unquote(revision), folder, corrupt)
        if match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        raise RefusalError(404, f"no route for {path}")

    def _validate(self) -> Any:
        problems = [{"message": problem} for problem in problems_of(json.loads(self.body)["content"])]
        found = {"errors": problems, "warnings": []}
        if problems:
            raise RefusalError(400, "invalid metadata", body=found)
        return found

    def _whoami(self) -> Any:
        if not self.user:
            raise RefusalError(401, "Invalid username or password.")
        return {
            "type": "user",
            "name": self.user[0],
            "fullname": self.user[0],
            "orgs": [],
            "auth": {"accessToken": {"role": self.user[1]}},
        }

    def _create(self) -> Any:
        wanted = json.loads(self.body)
        if not self.user:
            raise RefusalError(401, "Invalid username or password.")
        repo_id = f"{wanted['organization'] or self.user[0]}/{wanted['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repositories:
            raise RefusalError(409, "You already created this model repo", body=url)
        if repo_id.partition("/")[0] != self.user[0]:
            raise RefusalError(403, "You don't have the rights to create a model under this namespace")
        self.hub.create(repo_id, wanted.get("visibility") == "private")
        return url

    def _repository(self, repo_id: str) -> Repository:
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and not self.user):
            raise RefusalError(404 if self.user else 401, "Repository not found", "RepoNotFound")
        return repository

    def _at(self, repository: Repository, revision: str) -> Commit:
        commit = repository.at(revision)
        if commit is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _model(self, repo_id: str, action: str, revision: str, folder: str, corrupt: bool) -> Any:
        repository = self._repository(repo_id)
        if action in ("info", "revision"):
            return self._info(repo_id, repository, self._at(repository, revision))
        if action == "tree":
            return self._tree(repository, self._at(repository, revision).files, folder)
        if action == "preupload":
            return self._preupload(self._at(repository, revision).files)
        if action == "commit":
            return self._commit(repo_id, repository, revision, corrupt)
        if action == "branch":
            return self._branch(repository, revision)
        if action == "discussions":
            return self._discussions(repo_id, repository)
        raise RefusalError(404, f"no action {action}")

    def _info(self, repo_id: str, repository: Repository, commit: Commit) -> Any:
        siblings = [{"rfilename": path} for path in commit.files]
        base = {"id": repo_id, "sha": commit.oid, "private": repository.private, "tags": [], "siblings": siblings}
        return {**base, "createdAt": DATE, "lastModified": DATE}

    def _tree(self, repository: Repository, files: dict[str, bytes], folder: str) -> Any:
        """Every file, whatever its folder, as the client asks for."""
        if folder:
            raise RefusalError(404, f"{folder} does not exist", "EntryNotFound")
        entries = []
        for path, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            large = {"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}}
            named = {"oid": "0" * 40, **large} if sha256 in repository.blobs else {"oid": git_oid(content)}
            entries.append({"type": "file", "path": path, "size": len(content), **named})
        return entries

    def _large(self, repo_id: str, action: str) -> Any:
        """Where large files go, whether one has arrived, and how one comes and goes, by whoever has its address."""
        blobs = self.hub.repositories[repo_id].blobs
        if self.command in ("GET", "HEAD"):
            return 200, blobs[action], {}
        if action == "objects/batch":
            return {
                "transfer": "basic",
                "objects": [self._place(repo_id, one) for one in json.loads(self.body)["objects"]],
            }
        if action == "verify":
            if json.loads(self.body)["oid"] not in blobs:
                raise RefusalError(404, "no such object")
        elif hashlib.sha256(self.body).hexdigest() != action:
            raise RefusalError(400, "the content is not the one announced")
        else:
            blobs[action] = self.body
        return {}

    def _place(self, repo_id: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is sent; nowhere if it is there."""
        if wanted["oid"] in self.hub.repositories[repo_id].blobs:
            return wanted
        base = f"{self.hub.url}/{repo_id}/lfs"
        return {
            **wanted,
            "actions": {"upload": {"href": f"{base}/{wanted['oid']}"}, "verify": {"href": f"{base}/verify"}},
        }

    def _preupload(self, files: dict[str, bytes]) -> Any:
        answer = []
        for wanted in json.loads(self.body)["files"]:
            known = {"oid": git_oid(files[wanted["path"]])} if wanted["path"] in files else {}
            mode = "lfs" if self.hub.large and wanted["path"].endswith(".safetensors") else "regular"
            answer.append({"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        return {"files": answer}

    def _commit(self, repo_id: str, repository: Repository, revision: str, corrupt: bool) -> Any:
        parent = self._at(repository, revision)
        files, message = dict(parent.files), ""
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit", parent.oid) != parent.oid:
                    raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = bytes([content[0] ^ 1]) + content[1:] if corrupt else content
                corrupt = False
            elif operation["key"] == "lfsFile":
                if value["oid"] not in repository.blobs:
                    raise RefusalError(400, "the large file was never sent")
                files[value["path"]] = repository.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                raise RefusalError(400, f"operation {operation['key']} is not served")
        commit = self.hub.commit(message, files)
        url = f"{self.hub.url}/{repo_id}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
            repository.branches[f"refs/pr/{number}"] = [*repository.branches[revision], commit]
            return {**answer, "pullRequestUrl": f"{url}/discussions/{number}"}
        repository.branches[revision].append(commit)
        return answer

    def _branch(self, repository: Repository, name: str) -> Any:
        if name in repository.branches:
            raise RefusalError(409, "Reference already exists")
        repository.branches[name] = list(repository.branches["main"])
        return {}

    def _discussions(self, repo_id: str, repository: Repository) -> Any:
        pulls = [
            {
                "num": int(name.rpartition("/")[2]),
                "title": commits[-1].message,
                "author": {"name": "me"},
                "createdAt": DATE,
                "status": "open",
                "isPullRequest": True,
                "repo": {"name": repo_id, "type": "model"},
            }
            for name, commits in repository.branches.items()
            if name.startswith("refs/pr/")
        ]
        return {"discussions": pulls, "count": len(pulls), "start": 0}

    def _resolve(self, repo_id: str, revision: str, path: str) -> Any:
        commit = self._at(self._repository(repo_id), revision)
        if path not in commit.files:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        content = commit.files[path]
        if (oid := hashlib.sha256(content).hexdigest()) in self.hub.repositories[repo_id].blobs:
            place = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/{repo_id}/lfs/{oid}"
            linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            return 302, b"", {"X-Repo-Commit": commit.oid, "Location": place, **linked}
        return 200, content, {"X-Repo-Commit": commit.oid, "ETag": f'"{git_oid(content)}"'}
