"""`agentd ps`: the commands that the daemon runs, and with ``-a`` those that ended not long ago."""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime

import msgspec

from agentd.cli import connection, showing
from agentd.cli.parser import Parser
from agentd.cli.showing import harmless
from agentd.client import Detail

HEAD = ("PID", "USER", "STATE", "AGE", "COMMAND")


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="agentd ps", description="Lists the commands that the daemon runs.")
    made.add_argument("-a", "--all", action="store_true", help="with those that ended not long ago")
    made.add_argument("-q", "--quiet", action="store_true", help="pids alone")
    connection.add_json(made, "a command a line")
    connection.add_options(made, user=False)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    return connection.carry_out("ps", lambda: asyncio.run(_list(args)))


async def _list(args: argparse.Namespace) -> None:
    found = []
    async with connection.connect(args, connection.FEW) as client:
        async with aclosing(client.commands(ended=args.all)) as commands:
            async for one in commands:
                if args.json:
                    showing.put_json(msgspec.to_builtins(one))
                elif args.quiet:
                    showing.put_out(str(one.pid))
                else:
                    found.append(one)
    if not (args.json or args.quiet):
        _show(found)


def _show(found: list[Detail]) -> None:
    now = time.time()
    rows = [HEAD, *((str(one.pid), one.user, _state(one), _age(one, now), one.command) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, command in rows:
        row = " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        showing.put_out(f"{row} {harmless(command)}")


def _state(one: Detail) -> str:
    if one.running:
        return "running"
    return f"exit {one.exit_code}" if one.signal is None else one.signal


def _age(one: Detail, now: float) -> str:
    """Since its start: ``42s``, ``5m``, ``3h``, ``2d``."""
    seconds = max(0, int(now - datetime.fromisoformat(one.started_at).timestamp()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
