"""`agentd get`: a file out of the sandbox; the local file appears whole or not at all."""

import argparse
import asyncio
import os
import posixpath
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from agentd.cli import connection, progress, showing
from agentd.cli.parser import Parser
from agentd.client import Client


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="agentd get", description="Downloads a file of the sandbox.")
    made.add_argument("path", metavar="PATH", help="the file in the sandbox")
    made.add_argument(
        "file", metavar="FILE", nargs="?", help="where to, - for standard output (default: its name, here)"
    )
    connection.add_json(made)
    connection.add_options(made)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    return connection.carry_out("get", lambda: _get(args))


def _get(args: argparse.Namespace) -> None:
    client = connection.connect(args)
    if args.file == "-":
        if args.json:
            raise connection.UsageError("standard output is the file's or the object's: name a FILE with --json")
        asyncio.run(_fetch(client, args, sys.stdout.buffer.write))
        return
    file = _destination(args.path, args.file)
    with _replacing(file) as out:

        def restart() -> None:
            out.seek(0)
            out.truncate()

        length = asyncio.run(_fetch(client, args, out.write, restart))
    if args.json:
        showing.put_json({"path": args.path, "file": file, "bytes": length})


async def _fetch(
    client: Client,
    args: argparse.Namespace,
    write: Callable[[bytes], object],
    restart: Callable[[], None] | None = None,
) -> int:
    """restart: makes what was written unwritten; None where that is not possible."""
    received = 0
    moved: progress.Moved

    def begins(length: int | None) -> None:
        nonlocal moved, received
        received = 0
        display.close()
        moved = display.enter_context(progress.shown(args.path, length))
        moved(0)

    def keep(piece: bytes) -> None:
        nonlocal received
        write(piece)
        received += len(piece)
        moved(received)

    with ExitStack() as display:
        async with client:
            return await client.download(args.path, keep, user=args.user, begins=begins, restart=restart)


def _destination(path: str, file: str | None) -> str:
    name = posixpath.basename(path)
    if not name and (file is None or os.path.isdir(file)):
        raise connection.UsageError(f"{path!r} names no file: say which FILE to write")
    chosen = os.path.realpath(os.path.join(file, name) if file and os.path.isdir(file) else file or name)
    if os.path.exists(chosen) and not os.path.isfile(chosen):
        raise connection.UsageError(f"{chosen} is not a regular file; - writes to standard output")
    return chosen


@contextmanager
def _replacing(file: str) -> Iterator[BinaryIO]:
    """Yields a hidden sibling to write to, which takes the file's place, and mode, when all went well."""
    hidden = os.path.join(os.path.dirname(file), f".agentd-get-{secrets.token_hex(8)}")
    with open(hidden, "xb") as out:
        try:
            with suppress(FileNotFoundError):
                os.fchmod(out.fileno(), stat.S_IMODE(os.stat(file).st_mode))
            yield out
            out.flush()
            os.replace(hidden, file)
        except BaseException:
            os.unlink(hidden)
            raise
