"""`agentd exec`: a command in the sandbox, as if it ran here: its output, its input, its signals, its exit status."""

import argparse
import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress

import msgspec

from agentd.cli import connection, showing
from agentd.cli.parser import Parser
from agentd.client import ApiError, Client, Opening, Unreachable, Wanted
from agentd.client.running import FEED_BYTES, Event, Exit, Gap, Started, Stderr, Stdout
from agentd.linux.threads import in_thread

TIMED_OUT, BROKEN, NOT_STARTED, NOT_FOUND = 124, 125, 126, 127
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
FAREWELL_SECONDS = 3.0
PROG = "agentd exec"


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROG,
        usage="agentd exec [OPTIONS] [--] CMD [ARG ...]",
        description="Runs a command in the sandbox. Its output comes as it is written, its exit status is ours. "
        "Ctrl-C goes to it; a second one ends it. A lost connection, or a new daemon, is waited for.",
    )
    made.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER, help="with its arguments; for --tty a shell")
    made.add_argument("--cwd", metavar="DIR", help="where it runs")
    made.add_argument(
        *("-e", "--env"),
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a variable; NAME alone: as it is here",
    )
    made.add_argument("--timeout", type=connection.seconds, metavar="SECONDS", help="end it after so long")
    made.add_argument(
        "--stdin", metavar="FILE", help="what it reads; - for ours (default: ours, but of a terminal nothing)"
    )
    how = made.add_mutually_exclusive_group()
    how.add_argument("-t", "--tty", action="store_true", help="at a terminal, which is this one")
    how.add_argument("-d", "--detach", action="store_true", help="start it, print its pid and leave it running")
    how.add_argument("--stream", action="store_true", help="with --json: an event a line, as they happen")
    connection.add_json(made, "how it ended, and the beginning of what it wrote")
    connection.add_options(made)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    if args.command[:1] == ["--"]:
        del args.command[0]
    return connection.carry_out("exec", lambda: _exec(args), status_of=_status_of)


def _status_of(error: Exception) -> int:
    if isinstance(error, ApiError) and error.code in ("exec_failed", "permission_denied"):
        return NOT_FOUND if error.status == 404 else NOT_STARTED
    return BROKEN


def _exec(args: argparse.Namespace) -> int:
    if not args.command and not args.tty:
        raise connection.UsageError("name a command: agentd exec -- CMD ARG ...")
    env = dict(_variable(text) for text in args.env)
    client = connection.connect(args)
    if args.tty:
        from agentd.cli.terminal import sit_down

        if args.json or args.timeout or args.stdin:
            raise connection.UsageError("--tty goes with neither --json nor --timeout nor --stdin")
        # In place of the shell: one that waits would be interrupted, too.
        command = f"exec {shlex.join(args.command)}" if args.command else None
        if term := os.environ.get("TERM"):
            env = {"TERM": term} | env
        opening = Opening(cols=80, rows=24, command=command, cwd=args.cwd, env=env, user=args.user)
        return asyncio.run(sit_down(client, opening))
    wanted = Wanted(argv=args.command, cwd=args.cwd, env=env, user=args.user, timeout=args.timeout)
    with _input(args.stdin, detached=args.detach) as stdin:
        if args.detach:
            return asyncio.run(_detached(client, wanted, stdin, json=args.json))
        return asyncio.run(_Run(client, wanted, stdin, args).to_its_end())


def _variable(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given:
        if name not in os.environ:
            raise connection.UsageError(f"--env {name}: there is no such variable here; give NAME=VALUE")
        value = os.environ[name]
    return name, value


@contextmanager
def _input(path: str | None, *, detached: bool) -> Iterator[int | None]:
    """The fd that is read for the command; None for no input."""
    if path is None or path == "-":
        unread = path is None and (detached or sys.stdin is None or sys.stdin.isatty())
        yield None if unread else 0
        return
    with open(path, "rb", buffering=0) as file:
        yield file.fileno()


async def _pieces(fd: int) -> AsyncGenerator[bytes, None]:
    """What is read, as it comes. Nothing is left waiting in a thread when nobody wants more."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # a regular file, which epoll(7) refuses, and which is always ready
        while piece := await in_thread(os.read, fd, FEED_BYTES):
            yield piece
        return
    loop.remove_reader(fd)
    while True:
        ready.clear()
        loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(fd)
        if not (piece := os.read(fd, FEED_BYTES)):
            return
        yield piece


async def _feed(client: Client, pid: int, fd: int) -> None:
    """All that is read, and the end of it; or until the command takes no more."""
    offset = 0
    async with aclosing(_pieces(fd)) as pieces:
        async for piece in pieces:
            if not await client.feed(pid, piece, offset):
                return
            offset += len(piece)
    await client.close_stdin(pid)


async def _detached(client: Client, wanted: Wanted, stdin: int | None, *, json: bool) -> int:
    async with client:
        pid = await client.begin(wanted, stdin=stdin is not None)
        if stdin is not None:
            await _feed(client, pid, stdin)
    if json:
        showing.put_json({"pid": pid})
    else:
        showing.put_out(str(pid))
    return connection.OK


class _Run:
    """One command, from its start to its end. The signals that come meanwhile are the command's."""

    def __init__(self, client: Client, wanted: Wanted, stdin: int | None, args: argparse.Namespace) -> None:
        self._client = client
        self._wanted = wanted
        self._stdin = stdin
        self._json = args.json
        self._events = args.json and args.stream
        self._pid: int | None = None
        self._signalled: signal.Signals | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup
        self._telling: asyncio.Task[int]

    async def to_its_end(self) -> int:
        loop = asyncio.get_running_loop()
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) leaves it, and a shell in the background
                loop.add_signal_handler(number, self._on_signal, number)
        async with self._client:
            try:
                async with asyncio.TaskGroup() as self._group:
                    self._telling = self._group.create_task(self._tell())
                    self._telling.add_done_callback(self._stop_feeding)
            except BaseExceptionGroup as failures:
                await self._end()
                raise failures.exceptions[0] from None
            if self._telling.cancelled():
                await self._end()
                return 128 + (self._signalled or signal.SIGINT)
        return self._telling.result()

    def _stop_feeding(self, _: object) -> None:
        """What is still read is nobody's any more."""
        if self._feeding is not None:
            self._feeding.cancel()

    async def _tell(self) -> int:
        async with aclosing(self._client.run(self._wanted, stdin=self._stdin is not None)) as events:
            async for event in events:
                if self._events:
                    await in_thread(showing.put_json, msgspec.to_builtins(event))
                if isinstance(event, Started):
                    self._pid = event.pid
                    if self._signalled is not None:
                        self._group.create_task(self._pass_on(event.pid, self._signalled))
                    if self._stdin is not None:
                        self._feeding = self._group.create_task(_feed(self._client, event.pid, self._stdin))
                elif isinstance(event, Exit):
                    return await self._ended(event)
                elif not self._json:
                    await in_thread(_show, event)
        raise AssertionError("the last event is an exit")

    async def _ended(self, end: Exit) -> int:
        assert self._pid is not None
        self._signals_are_ours()
        if self._json and not self._events:
            told = msgspec.to_builtins(end) | msgspec.to_builtins(await self._client.written(self._pid))
            del told["type"], told["cursor"]
            showing.put_json({"pid": self._pid, **told})
        if end.reason == "timed_out":
            print(f"agentd exec: the command was ended after {self._wanted.timeout:g} s", file=sys.stderr)
            return TIMED_OUT
        return end.exit_code

    def _on_signal(self, number: signal.Signals) -> None:
        """The first one goes to the command, once there is one; the second ends it, the third ends us."""
        if self._telling.cancelling():
            os._exit(128 + number)
        if self._signalled is not None:
            self._telling.cancel()
        elif self._pid is not None:
            self._group.create_task(self._pass_on(self._pid, number))
        self._signalled = number

    async def _pass_on(self, pid: int, number: signal.Signals) -> None:
        with suppress(ApiError, Unreachable):  # it has ended; or the daemon is gone, which is seen elsewhere
            await self._client.signal(pid, number.name)

    async def _end(self) -> None:
        """Nobody reads what it writes any more, so nothing shall be left of it."""
        self._signals_are_ours()
        if self._pid is not None:
            with suppress(ApiError, OSError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._client.end(self._pid)

    def _signals_are_ours(self) -> None:
        for number in PASSED_ON:
            asyncio.get_running_loop().remove_signal_handler(number)


def _show(event: Event) -> None:
    """Blocks."""
    match event:
        case Stdout():
            showing.write(1, event.content)
        case Stderr():
            with suppress(OSError):
                showing.write(2, event.content)
        case Gap():
            print(f"agentd exec: {event.bytes} bytes of output are gone: nobody read them in time", file=sys.stderr)
