"""Publishing a student on the Hub: once, whole, and looked at afterwards."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, whoami
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from hf_distill.errors import HubError
from hf_distill.hub.folder import PACKED, WEIGHTS, LocalFile, is_published, select
from hf_distill.hub.markdown import line
from hf_distill.hub.record import is_hub_id

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new attempt after a failure that may pass."""

MAX_WAIT = 300.0
"""The longest wait that the Hub may ask for."""

# Base of all errors of the client's HTTP library, lost connections included: httpx in huggingface_hub 1, httpx2 in 2.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]

# The client also raises ValueError (bad names, cards), OSError (no token, offline) and RuntimeError (large files).
_CLIENT_ERRORS = (_HTTP_ERROR, OSError, ValueError, RuntimeError)

REMEDIES = {
    400: "The Hub found the request or the card's metadata wrong; see its message.",
    401: "The token is missing, wrong or expired: run `hf auth login` or set HF_TOKEN.",
    403: "The token may not write there: use a token with write access, or another name space.",
    404: "There is no such repository or revision, or the token may not see it: check the name and the token.",
    409: "Another operation on the repository is under way: try again when it has ended.",
    412: "Somebody else changed the repository meanwhile: look at it, then publish again.",
    413: "The Hub found the upload too large: use larger or fewer shards.",
    429: "The Hub asks for fewer requests: wait some minutes, then publish again.",
}


@dataclass(frozen=True)
class Published:
    """What is on the Hub now: where, at which commit, the SHA-256 sum of each file, and whether anything was sent."""

    url: str
    commit: str
    files: Mapping[str, str]
    changed: bool


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str = "Publish a distilled student",
    create_pr: bool = False,
    include_objective_state: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Published:
    """Send the model, card and record in `folder` to the Hub in one commit, and compare what the Hub then holds.

    The repository is made if it is missing, the branch `revision` too. Only files on the list `PUBLISHED` are sent;
    weights and codes of an earlier student that this one does not have are removed, because a loader would prefer
    them or take them for this one's. Nothing is sent when the Hub has the same files. The token is the one of
    `hf auth login` or HF_TOKEN.

    Failures that may pass (408, 429, 5xx, lost connections) are tried again after `WAITS`; before each attempt it is
    looked up whether the last commit arrived after all, so none is made twice. The client itself has no time limit.

    Args:
        repo_id: `owner/name`, or `name` in the name space of the token.
        private: make the repository private, and refuse one that exists and is public.
        revision: a branch; None is the main one.
        create_pr: send the commit as a pull request against the main branch.
        include_objective_state: send `distillation.safetensors`, too.

    Raises:
        HubError: the folder is not fit to be published (see `hf_distill.hub.folder.select`); not logged in; a public
            repository where private was asked for; the Hub failed. It names the repository, status and remedy.
    """
    if not is_hub_id(repo_id):
        raise HubError(f"{repo_id!r} is not the name of a repository; give 'owner/name'.")
    if create_pr and revision is not None:
        raise HubError(f"A pull request goes against the main branch; leave out revision={revision!r} or create_pr.")
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise HubError(f"revision={revision!r} is a commit, which cannot be added to; give a branch.")
    files = select(Path(folder), include_objective_state=include_objective_state)
    return _until_it_holds(_Push(files, repo_id, private, revision, commit_message, create_pr).attempt, sleep)


def prepare_repository(repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
    """Look, before hours of training, whether a publication could succeed; make the repository and the branch.

    Returns the full name of the repository. Raises `HubError` as `publish` does.
    """
    push = _Push({}, repo_id, private, revision, "", create_pr=False)
    with _as_hub_error(repo_id):
        push._prepared()
    return push.repo_id


def _until_it_holds(attempt: Callable[[], Published], sleep: Callable[[float], None]) -> Published:
    """Attempt until it succeeds, the failure is final, or the waits are used up."""
    for wait in WAITS:
        try:
            return attempt()
        except HubError as error:
            if not _may_pass(error):
                raise
            seconds = max(wait, min(_asked_wait(error), MAX_WAIT))
            logger.warning("%s Trying again in %g s.", error, seconds)
        sleep(seconds)
    try:
        return attempt()
    except HubError as error:
        if not _may_pass(error):
            raise
        raise HubError(
            f"{error} It was tried {len(WAITS) + 1} times. Publishing again is safe: nothing is sent twice."
        ) from error.__cause__


@dataclass
class _Push:
    """One publication, over all of its attempts."""

    files: Mapping[str, LocalFile]
    repo_id: str
    private: bool
    revision: str | None
    message: str
    create_pr: bool
    api: HfApi = field(default_factory=lambda: HfApi(library_name="hf_distill"))
    url: str = ""
    has_sent: bool = False

    def attempt(self) -> Published:
        """Look, send what differs, look again. Raises `HubError` whose cause is the client's error."""
        with _as_hub_error(self.repo_id):
            head = self._prepared()
            place = self._found(head) or self._committed(head)
            url, commit = place
            return Published(url, commit, {name: file.sha256 for name, file in self.files.items()}, self.has_sent)

    def _prepared(self) -> str:
        """The commit to add to, once token, repository, visibility and branch are as they should be."""
        user = whoami(cache=True)
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubError(f"{self.repo_id}: the token can only read; use a token with write access.")
        if "/" not in self.repo_id:
            self.repo_id = f"{user['name']}/{self.repo_id}"
        self.url = str(self.api.create_repo(self.repo_id, private=self.private, exist_ok=True))
        info = self.api.model_info(self.repo_id)
        if self.private and not info.private:
            raise HubError(
                f"{self.repo_id} exists and is public, but a private repository was asked for. Nothing was sent: make "
                "it private in its settings, choose another name, or publish with private=False."
            )
        if self.revision is not None:
            self.url = f"{self.url}/tree/{self.revision}"
            if not self.revision.startswith("refs/"):
                self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
            info = self.api.model_info(self.repo_id, revision=self.revision)
        return str(info.sha)

    def _found(self, head: str) -> tuple[str, str] | None:
        """URL and commit where the Hub has the same files: the branch, or an open pull request of this name."""
        if not any(self._differing(head)):
            return self.url, head
        if self.create_pr:
            for pull in self.api.get_repo_discussions(
                self.repo_id, discussion_type="pull_request", discussion_status="open"
            ):
                revision = f"refs/pr/{pull.num}"
                if pull.title == self.message and not any(self._differing(revision)):
                    return pull.url, str(self.api.model_info(self.repo_id, revision=revision).sha)
        return None

    def _differing(self, revision: str) -> tuple[list[str], list[str]]:
        """Names of files to send, and of weights and codes on the Hub that this student lacks."""
        tree = self.api.list_repo_tree(self.repo_id, revision=revision)
        remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        changed = [name for name, file in self.files.items() if not _is_same(file, remote.get(name))]
        return changed, [name for name in remote if is_published(name, (*WEIGHTS, PACKED)) and name not in self.files]

    def _committed(self, head: str) -> tuple[str, str]:
        """URL and commit after sending; compared with what the Hub then holds."""
        changed, stale = self._differing(head)
        operations = [CommitOperationAdd(name, self.files[name].path) for name in changed]
        removals = [CommitOperationDelete(name) for name in stale]
        self.has_sent = True
        try:
            commit = self.api.create_commit(
                self.repo_id,
                [*operations, *removals],
                commit_message=self.message,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=head,
            )
        except _CLIENT_ERRORS as error:
            place = self._found(self._head()) if _may_pass(error) else None
            if place is None:
                raise
            return place
        wrong, left = self._differing(commit.pr_revision or commit.oid)
        if wrong or left:
            raise HubError(
                f"{self.repo_id}: commit {commit.oid} does not hold what was sent; different there: "
                f"{', '.join([*wrong, *left])}. Publish again, and do not use this commit."
            )
        return commit.pr_url or self.url, commit.oid

    def _head(self) -> str:
        return str(self.api.model_info(self.repo_id, revision=self.revision).sha)


def _is_same(file: LocalFile, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != file.size:
        return False
    return remote.lfs.sha256 == file.sha256 if remote.lfs else remote.blob_id == file.git_oid


# Errors of the client


@contextmanager
def _as_hub_error(repo_id: str) -> Iterator[None]:
    """Turn what the client raises into a `HubError` with that cause."""
    try:
        yield
    except HubError:
        raise
    except _CLIENT_ERRORS as error:
        raise HubError(f"{repo_id}: {_what_happened(error)} {_remedy(error)}".strip()) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _answer(error: BaseException) -> HfHubHTTPError | None:
    """The Hub's answer that is the reason of `error`, if it answered."""
    return next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)


def _what_happened(error: BaseException) -> str:
    answer = _answer(error)
    if answer is None:
        return f"{type(error).__name__}: {line(str(error)).rstrip(chr(46))}."
    told = line(answer.server_message or str(answer))
    return f"the Hub answered {answer.response.status_code} ({told})."


def _remedy(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "The client is offline: unset HF_HUB_OFFLINE to publish."
    if isinstance(error, LocalTokenNotFoundError):
        return REMEDIES[401]
    answer = _answer(error)
    if answer is not None:
        return REMEDIES.get(answer.response.status_code, "")
    return "The connection to the Hub failed." if _may_pass(error) else ""


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    answer = _answer(error)
    if answer is not None:
        status = answer.response.status_code
        return status in (408, 429) or status >= 500
    return any(
        isinstance(cause, (_HTTP_ERROR, ConnectionError, TimeoutError)) and not isinstance(cause, OfflineModeIsEnabled)
        for cause in _causes(error)
    )


def _asked_wait(error: BaseException) -> float:
    """Seconds that the Hub asked to wait, or 0."""
    answer = _answer(error)
    asked = answer.response.headers.get("Retry-After", "") if answer is not None else ""
    return float(asked) if asked.isdecimal() else 0.0
