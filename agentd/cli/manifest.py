"""``agentd manifest TARGET``: the files that run the daemon as a service, made for this installation."""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentd.cli import FAILED, OK, READER_GONE
from agentd.cli.parser import Parser

# Each has a module in agentd.cli.manifests with `add_flags(parser)`, and `files(options)`: what is in each file, by the
# path where it belongs. It raises ValueError for options of which nothing sensible can be made.
TARGETS = {
    "systemd": "a service of a virtual machine: unit, socket, user, directories, examples of drop-ins",
    "kubernetes": "a Pod, and a Sandbox and a SandboxTemplate of the agent-sandbox engine",
}


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="agentd manifest", description="Print the files that run the daemon as a service, or write them."
    )
    targets = made.add_subparsers(dest="target", metavar="TARGET", required=True)
    for name, what in TARGETS.items():
        one = targets.add_parser(name, help=what, description=f"Print or write {what}.")
        importlib.import_module(f"agentd.cli.manifests.{name}").add_flags(one)
        one.add_argument("--output", metavar="DIR", type=Path, help="write the files below DIR, / for this machine")
        one.add_argument("--force", action="store_true", help="overwrite what is there")
    return made


def main(arguments: Sequence[str]) -> int:
    """The exit status; `FAILED` where a file is in the way or cannot be written."""
    made = parser()
    options = made.parse_args(arguments)
    try:
        files = importlib.import_module(f"agentd.cli.manifests.{options.target}").files(options)
    except ValueError as error:
        made.error(str(error))
    if options.output is None:
        return _print(_text(files))
    try:
        return _write(files, options.output, force=options.force)
    except OSError as error:
        print(f"agentd manifest: {error.filename}: {error.strerror}", file=sys.stderr)
        return FAILED


def _print(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return OK


def _text(files: Mapping[str, str]) -> str:
    """Each with its path above it, as ``systemctl cat`` does; one alone as it is."""
    if len(files) == 1:
        return next(iter(files.values()))
    return "\n".join(f"# {path}\n{content}" for path, content in files.items())


def _write(files: Mapping[str, str], top: Path, *, force: bool) -> int:
    """All of them, or none where one with another content is in the way."""
    places = {top / path.lstrip("/"): content.encode() for path, content in files.items()}
    there = [place for place in places if os.path.lexists(place)]
    foreign = [str(place) for place in there if not place.is_file() or place.read_bytes() != places[place]]
    if foreign and not force:
        print(f"agentd manifest: already there: {', '.join(foreign)}; --force overwrites", file=sys.stderr)
        return FAILED
    for place, content in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        print(place)
    return OK
