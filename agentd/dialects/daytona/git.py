"""Git: repositories cloned, described, changed, and brought together with others."""

from http import HTTPStatus
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.core.gitformat import Change
from agentd.dialects.daytona.wire import empty
from agentd.dialects.failures import PATH_ERRORS
from agentd.errors import NotSupported
from agentd.http.endpoint import Call, Endpoint, TextResult
from agentd.processes.credentials import Password
from agentd.processes.git import Git, Repository, author_of

ANYBODY = "git"  # the user name beside a token that stands alone

_ERRORS = (
    errors.GitFailed,
    errors.NotSupported,
    errors.ExecTimeout,
    errors.CapacityExceeded,
    errors.InvalidRequest,
    errors.Conflict,
    *PATH_ERRORS,
)
_WORDS = {
    ".": "Unmodified",
    "?": "Untracked",
    "M": "Modified",
    "T": "Modified",
    "A": "Added",
    "D": "Deleted",
    "R": "Renamed",
    "C": "Copied",
    "U": "Updated but unmerged",
}


class PathParams(Struct):
    path: str


class CloneBody(Struct):
    """commit_id: what is checked out then."""

    url: str
    path: str
    branch: str | None = None
    commit_id: str | None = None
    username: str | None = None
    password: str | None = None
    depth: Annotated[int, Meta(ge=0)] | None = None
    insecure_skip_tls: bool | None = None


class AddBody(Struct):
    """files: ``.`` for all."""

    path: str
    files: list[str]


class CommitBody(Struct):
    path: str
    message: Annotated[str, Meta(min_length=1)]
    author: str
    email: str
    allow_empty: bool | None = None


class BranchBody(Struct):
    path: str
    name: str


class CheckoutBody(Struct):
    path: str
    branch: str


class PullBody(Struct):
    path: str
    remote: str | None = None
    branch: str | None = None
    username: str | None = None
    password: str | None = None


class PushBody(PullBody):
    set_upstream: bool | None = None


class FileStatus(Struct):
    """staging, worktree: how it differs in the index from the commit, and in the tree from the index. extra: where a
    renamed or copied file came from."""

    name: str
    extra: str
    staging: str
    worktree: str


class StatusReply(Struct, rename="camel"):
    """current_branch: empty where the head is detached. branch_published: it has one that it follows."""

    current_branch: str
    file_status: list[FileStatus]
    branch_published: bool
    detached: bool
    ahead: int | UnsetType = UNSET
    behind: int | UnsetType = UNSET


class CommitReply(Struct):
    hash: str
    author: str
    email: str
    message: str
    timestamp: str


class BranchesReply(Struct):
    """current: empty where the head is detached."""

    branches: list[str]
    current: str


class Committed(Struct):
    hash: str


class GitRows:
    def __init__(self, git: Git) -> None:
        self._git = git

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/git/clone", "git.clone", self.clone, None, CloneBody, None, _ERRORS),
                summary="Clone a repository; credentials are for this one time and are kept nowhere",
            ),
            Endpoint(
                *("POST", "/git/add", "git.add", self.add, None, AddBody, None, _ERRORS),
                summary="Stage files",
            ),
            Endpoint(
                *("POST", "/git/commit", "git.commit", self.commit, None, CommitBody, Committed, _ERRORS),
                summary="Commit what is staged",
            ),
            Endpoint(
                *("GET", "/git/status", "git.status", self.status, PathParams, None, StatusReply, _ERRORS),
                summary="What differs from the last commit",
            ),
            Endpoint(
                *("GET", "/git/history", "git.history", self.history, PathParams, None, list[CommitReply], _ERRORS),
                summary="List the commits, newest first",
            ),
            Endpoint(
                *("GET", "/git/branches", "git.branches", self.branches, PathParams, None, BranchesReply, _ERRORS),
                summary="List the local branches",
            ),
            Endpoint(
                *("POST", "/git/branches", "git.create_branch", self.create_branch, None, BranchBody, None, _ERRORS),
                status=201,
                summary="Create a branch",
            ),
            Endpoint(
                *("DELETE", "/git/branches", "git.delete_branch", self.delete_branch, None, BranchBody, None, _ERRORS),
                status=204,
                summary="Delete a branch, merged or not",
            ),
            Endpoint(
                *("POST", "/git/checkout", "git.checkout", self.checkout, None, CheckoutBody, None, _ERRORS),
                summary="Check out a branch or a commit",
            ),
            Endpoint(
                *("POST", "/git/pull", "git.pull", self.pull, None, PullBody, None, _ERRORS),
                summary="Fetch and bring together; credentials as in clone",
            ),
            Endpoint(
                *("POST", "/git/push", "git.push", self.push, None, PushBody, None, _ERRORS),
                summary="Send commits to a remote; credentials as in clone",
            ),
        )

    async def clone(self, call: Call) -> TextResult:
        body: CloneBody = call.data
        if body.insecure_skip_tls:
            raise NotSupported("certificates are always verified here; give the sandbox that of the server instead")
        at = Repository(body.path)
        await self._git.clone(body.url, at, body.branch or None, body.depth or None, _credentials(body))
        if body.commit_id:
            await self._git.checkout(at, body.commit_id, False)
        return empty(HTTPStatus.OK)

    async def add(self, call: Call) -> TextResult:
        body: AddBody = call.data
        if body.files:
            await self._git.add(Repository(body.path), body.files)
        return empty(HTTPStatus.OK)

    async def commit(self, call: Call) -> Committed:
        body: CommitBody = call.data
        author = author_of(body.author, body.email)
        at, allow_empty = Repository(body.path), bool(body.allow_empty)
        return Committed(await self._git.commit(at, body.message, None, author, False, allow_empty=allow_empty))

    async def status(self, call: Call) -> StatusReply:
        found = await self._git.status(Repository(call.params.path))
        return StatusReply(
            found.branch or "",
            [_changed(change) for change in found.changes],
            branch_published=found.ahead is not None,
            detached=found.branch is None,
            ahead=UNSET if found.ahead is None else found.ahead,
            behind=UNSET if found.behind is None else found.behind,
        )

    async def history(self, call: Call) -> list[CommitReply]:
        commits = await self._git.log(Repository(call.params.path), None)
        return [CommitReply(one.sha, one.author_name, one.author_email, one.message, one.date) for one in commits]

    async def branches(self, call: Call) -> BranchesReply:
        names, current = await self._git.branches(Repository(call.params.path))
        return BranchesReply(names, current or "")

    async def create_branch(self, call: Call) -> TextResult:
        await self._git.create_branch(Repository(call.data.path), call.data.name)
        return empty(HTTPStatus.CREATED)

    async def delete_branch(self, call: Call) -> None:
        await self._git.delete_branch(Repository(call.data.path), call.data.name, True)

    async def checkout(self, call: Call) -> TextResult:
        await self._git.checkout(Repository(call.data.path), call.data.branch, False)
        return empty(HTTPStatus.OK)

    async def pull(self, call: Call) -> TextResult:
        body: PullBody = call.data
        at, remote = Repository(body.path), body.remote or "origin"
        await self._git.pull(at, remote, body.branch or None, _credentials(body))
        return empty(HTTPStatus.OK)

    async def push(self, call: Call) -> TextResult:
        body: PushBody = call.data
        at, remote = Repository(body.path), body.remote or "origin"
        upstream = bool(body.set_upstream)
        await self._git.push(at, remote, body.branch or None, upstream, _credentials(body))
        return empty(HTTPStatus.OK)


def _credentials(given: CloneBody | PullBody) -> Password | None:
    if not given.username and not given.password:
        return None
    return Password(given.username or ANYBODY, given.password or "")


def _changed(change: Change) -> FileStatus:
    staging, worktree = (_WORDS.get(letter, "Modified") for letter in change.status)
    return FileStatus(change.path, change.original or "", staging, worktree)
