"""`agentd version`: of this program, and of the daemon."""

import argparse
import asyncio
import platform
from collections.abc import Sequence

import msgspec

from agentd import __version__
from agentd.cli import connection, showing
from agentd.cli.parser import Parser
from agentd.client import Version


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd version", description="Prints the versions of this program and of the daemon that answers."
    )
    connection.add_json(made)
    connection.add_options(made, user=False)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    return connection.carry_out("version", lambda: asyncio.run(_tell(args)))


async def _tell(args: argparse.Namespace) -> None:
    """Its own version first, which needs no daemon."""
    own = Version(__version__, platform.python_version())
    if not args.json:
        showing.put_out(f"agentd {own.version} (Python {own.python})")
    daemon: Version | None = None
    try:
        async with connection.connect(args, connection.FEW) as client:
            daemon = await client.version()
    finally:
        if args.json:
            showing.put_json({"client": msgspec.to_builtins(own), "daemon": daemon and msgspec.to_builtins(daemon)})
    if not args.json:
        showing.put_out(f"daemon {daemon.version} (Python {daemon.python})")
