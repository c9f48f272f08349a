"""Publishing a student on the Hub: once, whole, and looked at afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, whoami
from huggingface_hub.file_download import REGEX_COMMIT_HASH
from huggingface_hub.hf_api import RepoFile

from hf_distill.errors import HubError
from hf_distill.hub.client_errors import CLIENT_ERRORS, WAITS, as_hub_error, may_pass, until_it_holds
from hf_distill.hub.folder import (
    EXPORTS,
    OBJECTIVE_STATE,
    OF_A_PROCESSOR,
    OF_A_TOKENIZER,
    OF_SENTENCES,
    PACKED,
    SETTINGS,
    WEIGHTS,
    LocalFile,
    is_published,
    select,
)
from hf_distill.hub.front_matter import FILE_NAME as CARD
from hf_distill.hub.record import FILE_NAME as RECORD
from hf_distill.hub.record import is_hub_id

OF_A_STUDENT = (*WEIGHTS, PACKED, *EXPORTS, *OF_SENTENCES, OBJECTIVE_STATE, RECORD)
"""Files that belong to one student, and must not stay beside the files of another."""

RECORDED = (*SETTINGS, CARD)
"""What belongs to an earlier student where its record stands beside, and is somebody's own elsewhere."""

READERS = (OF_A_TOKENIZER, OF_A_PROCESSOR)
"""The same of kinds of which a student may have none: they are somebody's own, too, where the new one has none."""


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
    path_in_repo: str = "",
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], None] = time.sleep,
) -> Published:
    """Send the model, card and record in `folder` to the Hub in one commit, and compare what the Hub then holds.

    The repository is made if it is missing, the branch `revision` too. Only files on the list `PUBLISHED` are sent;
    those of an earlier student that this one does not have are removed, because a loader would prefer them or take
    them for this one's: weights, exports, what objectives learned and the record; where there is a record, its card
    and settings, too, and vocabularies and templates if this one has a tokenizer. Nothing is sent when the Hub has
    the same files. The token is the one of `hf auth login` or HF_TOKEN.

    Failures that may pass (408, 429, 5xx, lost connections) are tried again after `waits`; before each attempt it is
    looked up whether the last commit arrived after all, so none is made twice. The client itself has no time limit.

    Args:
        repo_id: `owner/name`, or `name` in the name space of the token.
        private: make the repository private, and refuse one that exists and is public.
        revision: a branch; None is the main one.
        create_pr: send the commit as a pull request against the main branch.
        include_objective_state: send `distillation.safetensors`, too.
        path_in_repo: the folder of the repository that the files go to, with a slash at its end; empty for the top.
        waits: seconds before each new attempt.

    Raises:
        HubError: the folder is not fit to be published (see `hf_distill.hub.folder.select`); not logged in; a public
            repository where private was asked for; the Hub failed. It names the repository, status and remedy.
    """
    check_target(repo_id, revision)
    if create_pr and revision is not None:
        raise HubError(f"A pull request goes against the main branch; leave out revision={revision!r} or create_pr.")
    files = select(Path(folder), include_objective_state=include_objective_state)
    push = _Push(files, repo_id, private, revision, commit_message, create_pr, path_in_repo)
    return until_it_holds(push.attempt, sleep, waits)


def full_name(repo_id: str) -> str:
    """`owner/name`; a bare name is in the name space of the token.

    Raises: `HubError` for what is no name, and as `publish` where the Hub must be asked who the token belongs to.
    """
    check_target(repo_id)
    push = _Push({}, repo_id, private=True, revision=None, message="", create_pr=False)
    if "/" not in repo_id:
        until_it_holds(push.own)
    return push.repo_id


def check_target(repo_id: str, revision: str | None = None) -> None:
    """Look, without the Hub, whether something could be sent there.

    Raises: `HubError` for what is no name of a repository, and for a commit in place of a branch.
    """
    if not is_hub_id(repo_id):
        raise HubError(f"{repo_id!r} is not the name of a repository; give 'owner/name'.")
    if revision is not None and REGEX_COMMIT_HASH.fullmatch(revision):
        raise HubError(f"revision={revision!r} is a commit, which cannot be added to; give a branch.")


def prepare_repository(repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
    """Look, before hours of training, whether a publication could succeed; make the repository and the branch.

    Returns the full name of the repository. Raises `HubError` as `publish` does.
    """
    check_target(repo_id, revision)
    push = _Push({}, repo_id, private, revision, "", create_pr=False)
    until_it_holds(push.look)
    return push.repo_id


@dataclass
class _Push:
    """One publication, over all of its attempts."""

    files: Mapping[str, LocalFile]
    repo_id: str
    private: bool
    revision: str | None
    message: str
    create_pr: bool
    place: str = ""
    api: HfApi = field(default_factory=lambda: HfApi(library_name="hf_distill"))
    url: str = ""
    has_sent: bool = False

    def look(self) -> None:
        """Find out whether a commit could be made. Raises `HubError`, as `attempt` does."""
        with as_hub_error(self.repo_id):
            self._prepared()

    def own(self) -> None:
        """Find out whose the repository is. Raises `HubError`, as `attempt` does."""
        with as_hub_error(self.repo_id):
            self._named()

    def attempt(self) -> Published:
        """Look, send what differs, look again. Raises `HubError` whose cause is the client's error."""
        with as_hub_error(self.repo_id):
            head = self._prepared()
            url, commit = self._found(head) or self._committed(head)
            return Published(url, commit, {name: file.sha256 for name, file in self.files.items()}, self.has_sent)

    def _prepared(self) -> str:
        """The commit to add to, once token, repository, visibility and branch are as they should be."""
        self._named()
        self.url = self._made()
        info = self.api.model_info(self.repo_id)
        if self.private and not info.private:
            raise HubError(
                f"{self.repo_id} exists and is public, but a private repository was asked for. Nothing was sent: make "
                "it private in its settings, choose another name, or publish with private=False (`hf-distill publish "
                "--public`; while training `--hub_private_repo false`)."
            )
        if self.revision is not None:
            self.url = f"{self.url}/tree/{self.revision}"
            if not self.revision.startswith("refs/"):
                self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
            info = self.api.model_info(self.repo_id, revision=self.revision)
        return str(info.sha)

    def _named(self) -> None:
        """A bare name becomes one in the name space of the token, which must be able to write."""
        user = whoami(cache=True)
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubError(f"{self.repo_id}: the token can only read; use a token with write access.")
        if "/" not in self.repo_id:
            self.repo_id = f"{user['name']}/{self.repo_id}"

    def _made(self) -> str:
        """The address of the repository, which is made if it is missing."""
        try:
            return str(self.api.create_repo(self.repo_id, private=self.private, exist_ok=True))
        except KeyError:  # a conflict that does not say where the repository is; whether it is there is looked up next
            return f"{self.api.endpoint}/{self.repo_id}"

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
        """Names of files to send, and of those on the Hub that are an earlier student's."""
        tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision)
        entries = [entry for entry in tree if isinstance(entry, RepoFile) and entry.path.startswith(self.place)]
        remote = {entry.path.removeprefix(self.place): entry for entry in entries}
        changed = [name for name, file in self.files.items() if not _is_same(file, remote.get(name))]
        has_earlier_record = RECORD in remote and (RECORD in changed or RECORD not in self.files)
        patterns = (*OF_A_STUDENT, *(_beside_a_record(self.files) if has_earlier_record else ()))
        return changed, [name for name in remote if name not in self.files and is_published(name, patterns)]

    def _committed(self, head: str) -> tuple[str, str]:
        """URL and commit after sending; compared with what the Hub then holds."""
        changed, stale = self._differing(head)
        operations = [CommitOperationAdd(f"{self.place}{name}", self.files[name].path) for name in changed]
        removals = [CommitOperationDelete(f"{self.place}{name}") for name in stale]
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
        except CLIENT_ERRORS as error:
            place = self._found(self._head()) if may_pass(error) else None
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


def _beside_a_record(files: Iterable[str]) -> Iterator[str]:
    """The patterns of what is an earlier student's where its record is, and `files` are the new one's."""
    yield from RECORDED
    for kind in READERS:
        if any(is_published(name, kind) for name in files):
            yield from kind


def _is_same(file: LocalFile, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != file.size:
        return False
    return remote.lfs.sha256 == file.sha256 if remote.lfs else remote.blob_id == file.git_oid
