"""Git, by the program of the sandbox, as the user: `Git`.

Every operation is one command or a few, in the repository's directory, with a clean environment and nobody to ask.
What git says is read in the formats that it makes for programs. Hooks and configuration of a repository run with the
rights of its user, as they do in a shell; git itself refuses a repository that belongs to somebody else.
"""

import asyncio
import os
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from agentd.core import gitformat
from agentd.core.eventlog import Stream
from agentd.core.gitformat import Commit, Status, check_name, check_url, scrubbed
from agentd.errors import ExecTimeout, GitFailed, InvalidRequest, NotSupported, ProgramNotFound
from agentd.linux.places import Place, Places
from agentd.linux.root import Root
from agentd.linux.threads import LONG, in_thread
from agentd.processes import unwrapping
from agentd.processes.credentials import NOTHING, Credentials, Lent, check, lend
from agentd.processes.registry import Processes
from agentd.processes.terms import Order, Wires

# Seconds.
LOCAL, NETWORK = 120.0, 3600.0
MOST_OUTPUT = 32 << 20
TAIL = 4000

_ENVIRONMENT = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "GIT_PAGER": "cat", "GIT_EDITOR": ":"}
_READING = {"GIT_OPTIONAL_LOCKS": "0"}

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Repository(msgspec.Struct, frozen=True):
    """path: in sandbox terms, may be relative; any directory within it. user: None is the default one."""

    path: str
    user: str | None = None


class Author(msgspec.Struct, frozen=True):
    name: str
    email: str


class Said(msgspec.Struct, frozen=True):
    """What git wrote. text: both streams, for people."""

    stdout: bytes
    text: str


class Git:
    """Everything is called on the loop. A caller that leaves ends the command that runs, with all that it started.

    All operations raise GitFailed where git says no, NotSupported where there is no git, ExecTimeout, InvalidRequest,
    and what `Processes.start` says of a directory and a user.
    """

    def __init__(self, processes: Processes, places: Places, root: Root, spawn: Spawn) -> None:
        self._processes = processes
        self._places = places
        self._root = root
        self._spawn = spawn

    async def clone(
        self, url: str, to: Repository, branch: str | None, depth: int | None, credentials: Credentials | None
    ) -> str:
        """Returns where the clone is. The workspace takes one too, although the daemon's own tree is in it.

        url: a relative path is meant from the directory above the clone.
        """
        check_url(url)
        options = [f"--branch={check_name(branch, 'branch')}"] if branch else []
        options += [f"--depth={depth}"] if depth is not None else []
        place = await in_thread(self._places.find, to.path, to.user)
        target = await in_thread(unwrapping.find_target, self._root, place)
        at = Repository(target.directory, to.user)
        if credentials is not None:
            url_of = await self._run(at, ["ls-remote", "--get-url", "--", url], env=_READING)
            lent = await self._lend(credentials, url_of.stdout, place)
        else:
            lent = NOTHING
        name = f".clone-{secrets.token_hex(8)}" if target.holds_reserved else target.name
        try:
            await self._run(at, ["clone", *options, "--", url, f"./{name}"], lent, credentials, timeout=NETWORK)
            if target.holds_reserved:
                inside = Repository(f"{target.directory}/{name}", to.user)
                with suppress(GitFailed):  # of an old git; then what is in the way is refused below
                    for arguments in unwrapping.LEAVE_OUT:
                        await self._run(inside, arguments)
                await in_thread(unwrapping.unwrap, self._root, place, name, pool=LONG)
        except BaseException:
            if target.holds_reserved:
                self._spawn(in_thread(unwrapping.discard, self._root, place, name, pool=LONG))
            raise
        return target.path

    async def status(self, at: Repository) -> Status:
        arguments = ["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"]
        said = await self._run(at, arguments, env=_READING)
        return await in_thread(gitformat.status, said.stdout)

    async def log(self, at: Repository, limit: int | None) -> list[Commit]:
        """The newest first; none where nothing was committed yet."""
        count = [f"--max-count={limit}"] if limit is not None else []
        options = ["-z", f"--format={gitformat.LOG_FORMAT}", "--encoding=UTF-8", "--no-show-signature", "--no-color"]
        try:
            said = await self._run(at, ["log", *options, *count, "--"], env=_READING)
        except GitFailed:
            await self._run(at, ["symbolic-ref", "-q", "HEAD"], env=_READING)
            if await self._has(at, "HEAD"):
                raise
            return []
        return await in_thread(gitformat.log, said.stdout)

    async def branches(self, at: Repository) -> tuple[list[str], str | None]:
        """The local ones, and which is checked out: None where the head is detached."""
        said = await self._run(at, ["for-each-ref", "--format=%(refname:strip=2)", "refs/heads"], env=_READING)
        names = os.fsdecode(said.stdout).splitlines()
        try:
            head = await self._run(at, ["symbolic-ref", "-q", "--short", "HEAD"], env=_READING)
        except GitFailed:
            return names, None
        return names, os.fsdecode(head.stdout).rstrip("\n")

    async def create_branch(self, at: Repository, name: str) -> None:
        await self._run(at, ["branch", "--", check_name(name, "branch")])

    async def delete_branch(self, at: Repository, name: str, force: bool) -> None:
        await self._run(at, ["branch", "-D" if force else "-d", "--", check_name(name, "branch")])

    async def checkout(self, at: Repository, ref: str, create: bool) -> None:
        await self._run(at, ["checkout", *(["-b"] if create else []), check_name(ref, "branch or commit"), "--"])

    async def add(self, at: Repository, files: Sequence[str]) -> None:
        """files: paths from the repository's directory, or git's patterns; none for everything, deletions too."""
        await self._run(at, ["add", "--all", *(["--", *files] if files else [])])

    async def commit(
        self,
        at: Repository,
        message: str,
        files: Sequence[str] | None,
        author: Author | None,
        everything: bool,
        *,
        allow_empty: bool = False,
    ) -> str:
        """Returns the new commit. files, everything: what to `add` before. allow_empty: it may change nothing."""
        if everything or files:
            await self.add(at, [] if everything else files or [])
        env: dict[str, str] = {}
        if author is not None:
            for role in ("AUTHOR", "COMMITTER"):
                env |= {f"GIT_{role}_NAME": author.name, f"GIT_{role}_EMAIL": author.email}
        options = ["--allow-empty"] if allow_empty else []
        await self._run(at, ["commit", "--quiet", "--file=-", *options], env=env, stdin=_encoded(message))
        return (await self._run(at, ["rev-parse", "HEAD"], env=_READING)).stdout.decode().strip()

    async def pull(self, at: Repository, remote: str, branch: str | None, credentials: Credentials | None) -> str:
        """Returns what git says. How to bring together what went apart is the user's configuration."""
        target = [check_name(remote, "remote"), *([check_name(branch, "branch")] if branch else [])]
        lent = await self._lend_for(at, ["ls-remote", "--get-url", "--", remote], credentials)
        return (await self._run(at, ["pull", "--no-edit", "--", *target], lent, credentials, timeout=NETWORK)).text

    async def push(
        self, at: Repository, remote: str, branch: str | None, upstream: bool, credentials: Credentials | None
    ) -> str:
        """Returns what git says. upstream: remember the remote's branch as that of the local one."""
        target = [check_name(remote, "remote"), *([check_name(branch, "branch")] if branch else [])]
        if upstream and not branch:
            target.append("HEAD")
        arguments = ["remote", "get-url", "--push", "--", remote]
        if "/" in remote or ":" in remote:
            arguments = ["ls-remote", "--get-url", "--", remote]
        lent = await self._lend_for(at, arguments, credentials)
        options = ["--set-upstream"] if upstream else []
        return (await self._run(at, ["push", *options, "--", *target], lent, credentials, timeout=NETWORK)).text

    async def _has(self, at: Repository, commit: str) -> bool:
        try:
            await self._run(at, ["rev-parse", "--quiet", "--verify", commit], env=_READING)
        except GitFailed:
            return False
        return True

    async def _lend_for(self, at: Repository, arguments: list[str], credentials: Credentials | None) -> Lent:
        """arguments: of the command that tells the URL."""
        if credentials is None:
            return NOTHING
        said = await self._run(at, arguments, env=_READING)
        return await self._lend(credentials, said.stdout, await in_thread(self._places.find, at.path, at.user))

    async def _lend(self, credentials: Credentials, url: bytes, place: Place) -> Lent:
        check(credentials)
        return await in_thread(lend, credentials, os.fsdecode(url).rstrip("\n"), place.owner)

    async def _run(
        self,
        at: Repository,
        arguments: Sequence[str],
        lent: Lent = NOTHING,
        credentials: Credentials | None = None,
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float = LOCAL,
    ) -> Said:
        order = Order(
            ("git", *lent.options, *arguments),
            cwd=(await in_thread(self._places.find, at.path, at.user)).path,
            env={**_ENVIRONMENT, **lent.variables, **(env or {})},
            user=at.user,
            stdin="null" if stdin is None else stdin,
            timeout=timeout,
            tags={"room": "git"},
        )
        said: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._spawn(self._command(order, lent, arguments[0], credentials.secrets if credentials else (), said))
        return await said

    async def _command(
        self, order: Order, lent: Lent, name: str, hidden: Sequence[str], said: "asyncio.Future[Said]"
    ) -> None:
        """Runs to its end whoever waits; ended where ``said`` is cancelled, because nobody does."""
        try:
            answer = await self._answer(order, lent, name, hidden, said)
        except Exception as error:  # noqa: BLE001 - it is handed to whoever waits
            if not said.done():
                said.set_exception(error)
        else:
            if not said.done():
                said.set_result(answer)

    async def _answer(
        self, order: Order, lent: Lent, name: str, hidden: Sequence[str], said: "asyncio.Future[Said]"
    ) -> Said:
        wires = await in_thread(_wires, lent) if lent.open else None
        try:
            process = await self._processes.start(order, wires=wires, lasting=False)
        except ProgramNotFound:
            raise NotSupported("this sandbox has no git; install it, for example with: apt-get install git") from None
        said.add_done_callback(lambda _: self._spawn(process.stop()) if said.cancelled() else None)
        ending = await process.wait()
        assert ending is not None
        stdout, stderr = [await process.output.first(stream, MOST_OUTPUT) for stream in Stream]
        whole = len(stdout) + len(stderr) == process.output.log.end
        self._processes.forget(process)
        text = scrubbed((stdout + stderr).decode(errors="replace").strip(), hidden)
        if ending.reason == "timed_out":
            raise ExecTimeout(f"git {name} took longer than {order.timeout:g} s and was ended; {text[-TAIL:]}")
        if ending.code:
            tail = scrubbed(stderr.decode(errors="replace").strip(), hidden)[-TAIL:] or text[-TAIL:]
            raise GitFailed(
                f"git {name} failed (exit {ending.code}): {text[-TAIL:] or 'without a word'}",
                exit_code=ending.code,
                stderr=tail,
            )
        if not whole:
            raise GitFailed(f"git {name} said more than {MOST_OUTPUT >> 20} MiB; run it by exec", exit_code=0)
        return Said(stdout, text)


def author_of(name: str | None, email: str | None) -> Author | None:
    """InvalidRequest where one is there without the other."""
    if name is None and email is None:
        return None
    if not name or not email:
        raise InvalidRequest("author_name and author_email go together; give both or none")
    return Author(name, email)


def _encoded(message: str) -> bytes:
    try:
        return os.fsencode(message)
    except UnicodeEncodeError:
        raise InvalidRequest("the message has characters that no file has; send UTF-8") from None


def _wires(lent: Lent) -> Wires:
    """Pipes, and what is lent, which is taken from there; on an OSError neither is left."""
    fds = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
    try:
        fds += os.pipe2(os.O_CLOEXEC)
        fds += os.pipe2(os.O_CLOEXEC)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    null, out, out_w, err, err_w = fds
    for fd in (out, err):
        os.set_blocking(fd, False)
    taken = {number: one.detach() for number, one in lent.open.items()}
    return Wires({0: null, 1: out_w, 2: err_w, **taken}, {Stream.STDOUT: out, Stream.STDERR: err})
