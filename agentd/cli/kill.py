"""`agentd kill`: a command that the daemon runs is ended, or gets a signal."""

import argparse
import asyncio
from collections.abc import Sequence

import msgspec

from agentd.cli import connection, showing
from agentd.cli.parser import Parser


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd kill",
        description="Ends commands with everything that they started: SIGTERM, and SIGKILL where that is not enough. "
        "With --signal only that is sent.",
    )
    made.add_argument("ids", metavar="ID", nargs="+", type=int, help="a pid, see agentd ps")
    made.add_argument("-s", "--signal", metavar="SIGNAL", help="a name such as HUP, or a number")
    made.add_argument("--tree", action="store_true", help="with --signal: to everything that it started")
    made.add_argument("--grace", type=connection.seconds, metavar="SECONDS", help="between SIGTERM and SIGKILL")
    connection.add_json(made, "how it stands then, a command a line")
    connection.add_options(made, user=False)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    return connection.carry_out("kill", lambda: asyncio.run(_kill(args)))


async def _kill(args: argparse.Namespace) -> None:
    async with connection.connect(args, connection.FEW) as client:
        for pid in args.ids:
            if args.signal:
                await client.signal(pid, args.signal, tree=args.tree)
            else:
                await client.end(pid, args.grace)
            if args.json:
                showing.put_json(msgspec.to_builtins(await client.command(pid)))
