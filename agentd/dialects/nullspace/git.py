"""Git: section 3.6 of the wire contract."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.core.gitformat import Change
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.values import user_name
from agentd.http.endpoint import Call, Endpoint
from agentd.processes.credentials import Credentials, Password, SshKey
from agentd.processes.git import Git, Repository, author_of

_ERRORS = (
    errors.GitFailed,
    errors.NotSupported,
    errors.ExecTimeout,
    errors.CapacityExceeded,
    errors.InvalidRequest,
    *PATH_ERRORS,
)


class HttpsAuth(Struct, tag_field="kind", tag="https"):
    username: str
    password: str


class SshAuth(Struct, tag_field="kind", tag="ssh"):
    private_key: str
    passphrase: str | None = None


Auth = HttpsAuth | SshAuth


class CloneBody(Struct):
    url: str
    path: str = "."
    branch: str | None = None
    depth: Annotated[int, Meta(ge=1)] | None = None
    auth: Auth | None = None
    user: str | None = None


class RepositoryParams(Struct):
    path: str = "."
    user: str | None = None


class LogParams(RepositoryParams):
    limit: Annotated[int, Meta(ge=1)] | None = None


class BranchBody(Struct):
    name: str
    path: str = "."
    action: Literal["create", "delete"] = "create"
    force: bool = False
    user: str | None = None


class CheckoutBody(Struct):
    ref: str
    path: str = "."
    create: bool = False
    user: str | None = None


class AddBody(Struct):
    path: str = "."
    files: list[str] = []
    user: str | None = None


class CommitBody(Struct):
    message: Annotated[str, Meta(min_length=1)]
    path: str = "."
    add_all: bool = False
    files: list[str] | None = None
    author_name: str | None = None
    author_email: str | None = None
    user: str | None = None


class PullBody(Struct):
    path: str = "."
    remote: str = "origin"
    branch: str | None = None
    auth: Auth | None = None
    user: str | None = None


class PushBody(PullBody):
    set_upstream: bool = False


class Cloned(Struct):
    path: str


class ChangedFile(Struct):
    path: str
    status: str
    staged: bool
    unstaged: bool
    original_path: str | UnsetType = UNSET


class StatusReply(Struct):
    detached: bool
    clean: bool
    changed: list[ChangedFile]
    branch: str | UnsetType = UNSET
    ahead: int | UnsetType = UNSET
    behind: int | UnsetType = UNSET


class CommitReply(Struct):
    sha: str
    author_name: str
    author_email: str
    date: str
    message: str


class LogReply(Struct):
    commits: list[CommitReply]


class BranchesReply(Struct):
    branches: list[str]
    current: str | UnsetType = UNSET


class Ok(Struct):
    ok: bool = True


class Committed(Struct):
    sha: str


class Synced(Struct):
    summary: str


class GitRows:
    def __init__(self, git: Git) -> None:
        self._git = git

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/git/clone", "git.clone", self.clone, None, CloneBody, Cloned, _ERRORS),
                summary="Clone a repository; credentials are for this one time and are kept nowhere",
            ),
            Endpoint(
                *("GET", "/git/status", "git.status", self.status, RepositoryParams, None, StatusReply, _ERRORS),
                summary="What differs from the last commit",
            ),
            Endpoint(
                *("GET", "/git/log", "git.log", self.log, LogParams, None, LogReply, _ERRORS),
                summary="List the commits, newest first",
            ),
            Endpoint(
                *("GET", "/git/branch", "git.branches", self.branches, RepositoryParams, None, BranchesReply, _ERRORS),
                summary="List the local branches",
            ),
            Endpoint(
                *("POST", "/git/branch", "git.branch", self.branch, None, BranchBody, Ok, _ERRORS),
                summary="Create or delete a branch",
            ),
            Endpoint(
                *("POST", "/git/checkout", "git.checkout", self.checkout, None, CheckoutBody, Ok, _ERRORS),
                summary="Check out a branch or a commit",
            ),
            Endpoint(
                *("POST", "/git/add", "git.add", self.add, None, AddBody, Ok, _ERRORS),
                summary="Stage files, or all that changed",
            ),
            Endpoint(
                *("POST", "/git/commit", "git.commit", self.commit, None, CommitBody, Committed, _ERRORS),
                summary="Commit what is staged, or stage and commit",
            ),
            Endpoint(
                *("POST", "/git/pull", "git.pull", self.pull, None, PullBody, Synced, _ERRORS),
                summary="Fetch and bring together; credentials as in clone",
            ),
            Endpoint(
                *("POST", "/git/push", "git.push", self.push, None, PushBody, Synced, _ERRORS),
                summary="Send commits to a remote; credentials as in clone",
            ),
        )

    async def clone(self, call: Call) -> Cloned:
        body: CloneBody = call.data
        to = Repository(body.path, user_name(body.user))
        return Cloned(await self._git.clone(body.url, to, body.branch, body.depth, _credentials(body.auth)))

    async def status(self, call: Call) -> StatusReply:
        found = await self._git.status(_repository(call.params))
        return StatusReply(
            detached=found.branch is None,
            clean=not found.changes,
            changed=[_changed(change) for change in found.changes],
            branch=UNSET if found.branch is None else found.branch,
            ahead=UNSET if found.ahead is None else found.ahead,
            behind=UNSET if found.behind is None else found.behind,
        )

    async def log(self, call: Call) -> LogReply:
        commits = await self._git.log(_repository(call.params), call.params.limit)
        return LogReply(
            [CommitReply(one.sha, one.author_name, one.author_email, one.date, one.message) for one in commits]
        )

    async def branches(self, call: Call) -> BranchesReply:
        names, current = await self._git.branches(_repository(call.params))
        return BranchesReply(names, UNSET if current is None else current)

    async def branch(self, call: Call) -> Ok:
        body: BranchBody = call.data
        if body.action == "create":
            await self._git.create_branch(_repository(body), body.name)
        else:
            await self._git.delete_branch(_repository(body), body.name, body.force)
        return Ok()

    async def checkout(self, call: Call) -> Ok:
        await self._git.checkout(_repository(call.data), call.data.ref, call.data.create)
        return Ok()

    async def add(self, call: Call) -> Ok:
        await self._git.add(_repository(call.data), call.data.files)
        return Ok()

    async def commit(self, call: Call) -> Committed:
        body: CommitBody = call.data
        author = author_of(body.author_name, body.author_email)
        sha = await self._git.commit(_repository(body), body.message, body.files, author, body.add_all)
        return Committed(sha)

    async def pull(self, call: Call) -> Synced:
        body: PullBody = call.data
        return Synced(await self._git.pull(_repository(body), body.remote, body.branch, _credentials(body.auth)))

    async def push(self, call: Call) -> Synced:
        body: PushBody = call.data
        credentials = _credentials(body.auth)
        at = _repository(body)
        return Synced(await self._git.push(at, body.remote, body.branch, body.set_upstream, credentials))


_Located = RepositoryParams | BranchBody | CheckoutBody | AddBody | CommitBody | PullBody


def _repository(given: _Located) -> Repository:
    return Repository(given.path, user_name(given.user))


def _credentials(auth: Auth | None) -> Credentials | None:
    match auth:
        case HttpsAuth(username, password):
            return Password(username, password)
        case SshAuth(private_key, passphrase):
            return SshKey(private_key, passphrase)
    return None


def _changed(change: Change) -> ChangedFile:
    original = UNSET if change.original is None else change.original
    return ChangedFile(change.path, change.status, change.staged, change.unstaged, original)
