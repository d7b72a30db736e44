"""Commands: started, fed, followed over lost connections and a new daemon, ended."""

from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast
from uuid import uuid4

import msgspec

from agentd.client.calls import ApiError, Broken, Calls, decoded

FEED_BYTES = 256 << 10  # of input in one request
# The tag that a command of `Running.run` has, to be known again by.
TAG = "agentd.run"


class CommandLost(Exception):
    """The daemon knows the command no more: another one has taken its place, and did not take it over."""


class Usage(msgspec.Struct, frozen=True):
    seconds: float
    user_seconds: float
    system_seconds: float
    memory_bytes: int | None = None


class Started(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    pid: int
    cursor: int = 0


class _Output(msgspec.Struct, frozen=True, tag_field="type"):
    """offset: in its stream."""

    data: str
    offset: int
    cursor: int
    data_base64: str | None = None

    @property
    def content(self) -> bytes:
        return self.data.encode() if self.data_base64 is None else b64decode(self.data_base64)


class Stdout(_Output, frozen=True, tag="stdout"):
    pass


class Stderr(_Output, frozen=True, tag="stderr"):
    pass


class Gap(msgspec.Struct, frozen=True, tag_field="type", tag="gap"):
    """bytes: of output that were not kept."""

    bytes: int
    cursor: int


class Draining(msgspec.Struct, frozen=True, tag_field="type", tag="draining"):
    cursor: int


class Exit(msgspec.Struct, frozen=True, tag_field="type", tag="exit"):
    """exit_code: 128 + the signal's number where one ended it. reason: ``exited``, ``signalled``, ``timed_out``,
    ``output_limit``, ``lost``."""

    exit_code: int
    signal: str | None
    reason: str
    usage: Usage
    cursor: int = 0


Event = Started | Stdout | Stderr | Gap | Exit
_WIRE = cast("type[Event | Draining]", Event | Draining)


class Written(msgspec.Struct, frozen=True):
    """The beginning of what a command wrote; in base64 too where that is no UTF-8. truncated: there was more."""

    stdout: str
    stderr: str
    truncated: bool
    stdout_base64: str | None = None
    stderr_base64: str | None = None


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """A command, as the daemon reports it; times as in RFC 3339."""

    pid: int
    command: str
    args: list[str]
    cwd: str
    user: str
    running: bool
    started_at: str
    ended_at: str | None = None
    tags: dict[str, str] = {}
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None


class _Pid(msgspec.Struct):
    pid: int


class _Named(msgspec.Struct):
    pid: int
    running: bool


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: a program and its arguments. timeout: seconds until it is ended, None for none."""

    argv: Sequence[str]
    cwd: str | None = None
    env: Mapping[str, str] = {}
    user: str | None = None
    timeout: float | None = None

    def body(self) -> dict[str, Any]:
        command, *args = self.argv
        return {
            "command": command,
            "args": args,
            "cwd": self.cwd,
            "envs": dict(self.env),
            "user": self.user,
            "timeout_secs": self.timeout,
        }


class Running(Calls):
    async def run(self, wanted: Wanted, *, stdin: bool = False) -> AsyncGenerator[Event, None]:
        """Runs a command and tells what it does, `Started` first and `Exit` last, each byte of its output once.

        stdin: it will be fed (`feed`, `close_stdin`), else it has no input. Whoever reads slowly slows the command. A
        connection that breaks is followed by another one, from the cursor on; CommandLost where the command is not
        there any more. A start whose answer is lost is repeated with its key, so one daemon starts it once.
        """
        key, pid, cursor, broken = str(uuid4()), -1, 0, False
        body = wanted.body() | {"stdin": "pipe" if stdin else "none", "paced": True, "tags": {TAG: key}}

        async def events() -> AsyncGenerator[Event, None]:
            nonlocal pid, cursor, broken
            if pid < 0:
                lines = self._lines("POST", "/exec/stream", json=body, headers={"Idempotency-Key": key})
            else:
                await self._check_there(pid, key)
                lines = self._lines("GET", f"/processes/{pid}/stream?cursor={cursor}&paced=true")
            async with aclosing(lines) as told:
                async for line in told:
                    event = decoded(line, _WIRE)
                    if isinstance(event, Draining):
                        break
                    if isinstance(event, Started):
                        if pid >= 0:
                            continue
                        pid = event.pid
                    cursor = event.cursor
                    yield event
                    if isinstance(event, Exit):
                        return
            raise Broken("the daemon ended before the command")

        async with aclosing(self._unbroken(events)) as told:
            async for event in told:
                yield event

    async def begin(self, wanted: Wanted, *, stdin: bool = False) -> int:
        """Starts a command that goes on by itself; its pid. stdin: as for `run`."""
        body = wanted.body() | {"background": True, "limits": {"wall_secs": wanted.timeout}}
        headers = {"Idempotency-Key": str(uuid4())}
        return decoded(
            await self._call("POST", "/exec", json=body | ({} if stdin else {"stdin": ""}), headers=headers), _Pid
        ).pid

    async def feed(self, pid: int, content: bytes, offset: int) -> bool:
        """Input, which begins at this offset of all of it; False where the command takes none any more.

        Waits as long as it takes the command to read it."""
        return await self._fed(pid, {"data_base64": b64encode(content).decode(), "offset": offset})

    async def close_stdin(self, pid: int) -> None:
        """The end of the input; again is harmless."""
        await self._fed(pid, {"close": True})

    async def written(self, pid: int) -> Written:
        return decoded(await self._call("GET", f"/processes/{pid}/logs"), Written)

    async def command(self, pid: int) -> Detail:
        return decoded(await self._call("GET", f"/processes/{pid}"), Detail)

    async def commands(self, *, ended: bool = False) -> AsyncGenerator[Detail, None]:
        """Those that run, the oldest first. ended: those that ended not long ago, too."""
        for one in decoded(await self._call("GET", "/processes"), list[_Named]):
            if ended or one.running:
                with suppress(ApiError):  # it was forgotten since
                    yield await self.command(one.pid)

    async def signal(self, pid: int, signal: str, *, tree: bool = False) -> None:
        """To its process group, or with ``tree`` to everything that it started. ApiError 409 where it has ended."""
        await self._call("POST", f"/processes/{pid}/signal", json={"signal": signal, "tree": tree})

    async def end(self, pid: int, grace: float | None = None) -> None:
        """Ends it with everything that it started: SIGTERM, so many seconds, SIGKILL. Returns when it is gone."""
        await self._call("POST", f"/processes/{pid}/kill", json={} if grace is None else {"grace_secs": grace})

    async def _check_there(self, pid: int, key: str) -> None:
        """CommandLost where the process of this number is not, or no more, the one that was started with this key."""
        try:
            detail = decoded(await self._once("GET", f"/processes/{pid}"), Detail)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            if detail.tags.get(TAG) == key:
                return
        raise CommandLost(f"the daemon was restarted and knows nothing of process {pid}: how it ended cannot be told")

    async def _fed(self, pid: int, body: dict[str, Any]) -> bool:
        while True:
            try:
                await self._call("POST", f"/processes/{pid}/stdin", json=body)
                return True
            except ApiError as error:
                # Where bytes would be left out, the refusal names no process.
                if error.status == 404 or (error.status == 409 and "pid" in error.details):
                    return False
                if error.status != 408:
                    raise
