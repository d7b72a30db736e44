"""`agentd ls`: a directory of the sandbox; the largest one takes no more memory than a screenful or two."""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import zip_longest
from typing import cast

from agentd.cli import connection, showing
from agentd.cli.parser import Parser
from agentd.cli.progress import size
from agentd.cli.showing import coloured, harmless
from agentd.client import ApiError, Client, Listed
from agentd.client.listing import Sort

TOGETHER = 1000  # entries that are aligned with one another
HALF_A_YEAR = 15_778_476  # seconds, as for POSIX ls -l
DEEPEST = 1_000_000
SORTS: dict[str, Sort | None] = {"name": "name", "size": "-size", "time": "-modified", "none": None}
COLOURS = {"dir": "1;34", "symlink": "1;36", "fifo": showing.YELLOW, "socket": "1;35", "block": "1;33", "char": "1;33"}
LETTERS = {"file": "-", "dir": "d", "symlink": "l", "fifo": "p", "socket": "s", "block": "b", "char": "c"}


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="agentd ls", description="Lists a directory of the sandbox.")
    made.add_argument("path", metavar="PATH", nargs="?", default=".", help="default: where the daemon's paths begin")
    made.add_argument("-l", "--long", action="store_true", help="with mode, owner, size and time")
    made.add_argument("-a", "--all", action="store_true", help="with names that begin with a dot")
    made.add_argument("-R", "--recursive", action="store_true", help="with all directories below")
    made.add_argument("-1", dest="lines", action="store_true", help="one a line, also on a terminal")
    made.add_argument("--human", action="store_true", help="sizes such as 1.5 MiB")
    made.add_argument("--sort", choices=SORTS, default="name", help="largest and newest first; none is the fastest")
    made.add_argument("-r", "--reverse", action="store_true", help="the other way round")
    connection.add_json(made, "an entry a line")
    connection.add_options(made)
    return made


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    return connection.carry_out("ls", lambda: asyncio.run(_list(args)))


async def _list(args: argparse.Namespace) -> int:
    async with connection.connect(args, connection.FEW) as client:
        try:
            if args.json:
                return await _json(client, args)
            return await _tree(client, args)
        except ApiError as error:
            if error.code != "not_a_directory":
                raise
        # One that is none itself, not one below what is none: that fails again.
        entry = await client.stat(args.path, args.user)
        if args.json:
            showing.put_json({name: getattr(entry, name) for name in entry.__struct_fields__ if name != "error"})
        else:
            _show([entry], args)
    return connection.OK


def _order(args: argparse.Namespace) -> Sort | None:
    order = SORTS[args.sort]
    if order is None or not args.reverse:
        return order
    return cast("Sort", order[1:] if order.startswith("-") else f"-{order}")


def _entries(
    client: Client, args: argparse.Namespace, path: str, depth: int = 1
) -> AsyncGenerator[tuple[Listed, bytes], None]:
    # A tree comes in the order of its names: that is all that a tree can be ordered by.
    order = _order(args)
    if depth > 1:
        order = "-name" if args.sort == "name" and args.reverse else None
    return client.entries(path, depth=depth, sort=order, hidden=args.all, user=args.user)


async def _json(client: Client, args: argparse.Namespace) -> int:
    status = connection.OK
    async with aclosing(_entries(client, args, args.path, DEEPEST if args.recursive else 1)) as found:
        async for entry, line in found:
            if entry.error is not None:
                status = _failed(entry)
            else:
                showing.put_lines(line)
    return status


async def _tree(client: Client, args: argparse.Namespace) -> int:
    """One directory, and with ``-R`` those in it, each under its name and before what is in it."""
    status, waiting = await _directory(client, args, args.path)
    while waiting:
        path = waiting.pop()
        showing.put_out("")
        try:
            worse, below = await _directory(client, args, path)
        except ApiError as error:
            if error.status == 401:
                raise
            worse, below = _failed(Listed(path, error=error.detail)), []
        status = worse or status
        waiting += below
    return status


async def _directory(client: Client, args: argparse.Namespace, path: str) -> tuple[int, list[str]]:
    """The exit status, and with ``-R`` the directories in it, the last one first."""
    status, below, gathered = connection.OK, list[str](), list[Listed]()
    if args.recursive:
        showing.put_out(f"{_name(path)}:")
    async with aclosing(_entries(client, args, path)) as found:
        async for entry, _ in found:
            if entry.error is not None:
                status = _failed(entry)
                continue
            gathered.append(entry)
            if args.recursive and entry.type == "dir":
                below.append(entry.path)
            if len(gathered) == TOGETHER:
                _show(gathered, args)
                gathered.clear()
    _show(gathered, args)
    return status, below[::-1]


def _failed(entry: Listed) -> int:
    sys.stdout.flush()
    print(f"agentd ls: {harmless(entry.path)}: {harmless(entry.error or '')}", file=sys.stderr)
    return connection.FAILED


def _show(entries: list[Listed], args: argparse.Namespace) -> None:
    if not entries:
        return
    if args.long:
        showing.put_out("\n".join(_long(entries, human=args.human)))
    elif showing.is_terminal() and not args.lines:
        showing.put_out("\n".join(_columns(entries, shutil.get_terminal_size().columns)))
    else:
        showing.put_out("\n".join(coloured(_name(entry.name), _colour(entry)) for entry in entries))


def _name(name: str) -> str:
    """For a person nothing that does harm; a program gets every byte."""
    return harmless(name) if showing.is_terminal() else name


def _colour(entry: Listed) -> str:
    if entry.type == "file":
        return "1;32" if int(entry.mode or "0", 8) & 0o111 else ""
    return COLOURS.get(entry.type, "")


def _columns(entries: list[Listed], width: int) -> list[str]:
    """Names from top to bottom, then from left to right, all columns of the same width."""
    names = [harmless(entry.name) for entry in entries]
    cell = max(map(len, names)) + 2
    rows = -(-len(names) // max(1, (width + 2) // cell))
    lines = []
    for row in zip_longest(*(range(at, min(at + rows, len(names))) for at in range(0, len(names), rows))):
        cells = [at for at in row if at is not None]
        *left, last = [coloured(names[at], _colour(entries[at])) for at in cells]
        padding = [" " * (cell - len(names[at])) for at in cells]
        lines.append("".join(text + pad for text, pad in zip(left, padding, strict=False)) + last)
    return lines


def _long(entries: list[Listed], *, human: bool) -> list[str]:
    now = time.time()
    rows = [
        (
            LETTERS.get(entry.type, "?") + _permissions(int(entry.mode or "0", 8)),
            str(entry.links),
            harmless(entry.owner),
            harmless(entry.group),
            size(entry.size) if human else str(entry.size),
            _time(entry.modified_ns / 1e9, now),
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for entry, row in zip(entries, rows, strict=True):
        mode, links, owner, group, length, moment = row
        fields = (mode, links.rjust(widths[1]), owner.ljust(widths[2]), group.ljust(widths[3]), length.rjust(widths[4]))
        arrow = "" if entry.target is None else f" -> {_name(entry.target)}"
        lines.append(f"{' '.join(fields)} {moment} {coloured(_name(entry.name), _colour(entry))}{arrow}")
    return lines


def _permissions(mode: int) -> str:
    """As ls -l has them: ``rwsr-xr-t``."""
    letters = [letter if mode >> (8 - at) & 1 else "-" for at, letter in enumerate("rwxrwxrwx")]
    for bit, at, letter in ((0o4000, 2, "s"), (0o2000, 5, "s"), (0o1000, 8, "t")):
        if mode & bit:
            letters[at] = letter if letters[at] == "x" else letter.upper()
    return "".join(letters)


def _time(seconds: float, now: float) -> str:
    """Local; of what is not of the last half year, the year."""
    recent = now - HALF_A_YEAR < seconds <= now + 60
    try:
        return time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # a file may have any time
        return f"@{seconds:.0f}"
