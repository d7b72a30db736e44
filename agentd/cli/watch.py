"""`agentd watch`: changes of a directory, a tree or a file as they happen, one a line."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing

from agentd.cli import connection, showing
from agentd.cli.parser import Parser
from agentd.cli.showing import coloured, harmless
from agentd.client import Change

COLOURS = {"create": showing.GREEN, "remove": showing.RED, "overflow": showing.YELLOW, "resumed": showing.YELLOW}
ENDS = {
    "removed": "it was removed",
    "moved": "it, or a directory above it, was moved",
    "unmounted": "its file system was unmounted",
    "stopped": "the sandbox was stopped or deleted",
}


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd watch",
        description="Tells changes as they happen, until it is interrupted. After a lost connection, or with a new "
        "daemon, it goes on and says 'resumed': what happened in between is not told.",
    )
    made.add_argument("path", metavar="PATH", help="a directory or a file")
    made.add_argument("-R", "--recursive", action="store_true", help="with all directories below")
    connection.add_json(made, "a change a line")
    connection.add_options(made)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    return connection.carry_out("watch", lambda: asyncio.run(_watch(args)))


async def _watch(args: argparse.Namespace) -> None:
    async with connection.connect(args) as client:
        changes = client.watch(args.path, recursive=args.recursive, user=args.user)
        async with aclosing(changes) as told:
            async for change, line in told:
                if args.json:
                    showing.put_lines(line)
                    sys.stdout.flush()
                elif change.event == "started":
                    print(f"agentd watch: watching {harmless(change.path)}", file=sys.stderr)
                elif change.event != "end":
                    showing.put_out(_line(change))
                if change.event == "end":
                    why = change.detail or ENDS.get(change.reason or "", change.reason)
                    raise connection.CommandFailed(f"{change.path} is watched no longer: {why}")


def _line(change: Change) -> str:
    name = harmless if showing.is_terminal() else str
    path = name(change.path) + ("/" if change.is_dir else "")
    if change.old_path is not None:
        path = f"{name(change.old_path)} -> {path}"
    return f"{time.strftime('%H:%M:%S')} {coloured(f'{change.event:8}', COLOURS.get(change.event, ''))} {path}"
