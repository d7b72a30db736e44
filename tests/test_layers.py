"""Who may import whom, and the other rules of the house that a program can check.

Every module below ``agentd/`` is read, never imported. A rule that is not in these tables is not a rule.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
LONGEST = 450

BELOW_ROOMS = ("core", "linux", "errors", "telemetry", "failpoints")

# A module, or the folder it stands in, and what it may import from agentd: downwards only.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "__init__": (),
    "errors": (),
    "telemetry": (),
    "failpoints": (),
    "core": ("core", "errors"),
    "linux": ("linux", "core.paths", "errors", "failpoints"),
    "files": ("files", *BELOW_ROOMS),
    "uploads": ("uploads", *BELOW_ROOMS),
    "processes": ("processes", *BELOW_ROOMS),
    "http": ("http", "core", "errors", "telemetry", "linux.threads"),
    "dialects": ("dialects", "http", "files", "uploads", "processes", *BELOW_ROOMS),
    "config": ("errors",),
    "client": ("client", "errors", "linux.threads"),
    "background": (),
    "rooms": ("background", "config", "files", "uploads", "processes", *BELOW_ROOMS),
    "claim": ("config", "http", *BELOW_ROOMS),
    "apis": ("rooms", "config", "dialects", "http", "processes", *BELOW_ROOMS),
    "daemon": ("apis", "rooms", "claim", "background", "config", "dialects", "http", *BELOW_ROOMS),
    "cli": ("cli", "daemon", "config", "client", "http.listen", "uploads.staging", "linux", "errors", "telemetry"),
    "__main__": ("cli", "daemon", "config", "errors"),
}

# Who may import a package from outside, or a part of the standard library that belongs behind one door.
OUTSIDE: dict[str, tuple[str, ...]] = {
    "aiohttp": ("http", "client", "daemon"),
    "multidict": ("http",),
    "multipart": ("http",),
    "yarl": ("http", "client"),
    "uvloop": ("daemon", "cli"),
    "rich": ("cli",),
    "msgspec": (
        "core",
        "linux",
        "telemetry",
        "files",
        "uploads",
        "processes",
        "http",
        "dialects",
        "config",
        "client",
        "rooms",
        "apis",
        "claim",
        "daemon",
        "cli",
    ),
    "xxhash": ("uploads", "files", "http", "client", "cli"),
    "re2": ("files",),
    "ctypes": ("linux",),
    "dataclasses": (),  # msgspec.Struct does it at a third of the cost at each start
    "inotify_simple": ("linux",),
}

# What only its own modules may import: what two of them need stands beside them.
DIALECTS = ("nullspace", "daytona", "duvo", "blackbox", "conway")

# What is pure: no clock, no disk, no loop, no machine.
PURE = {
    *("__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "enum"),
    *("errno", "fractions", "functools", "hashlib", "heapq", "itertools", "math", "operator", "re", "stat"),
    *("string", "struct", "textwrap", "types", "typing"),
}

BANNED_CALLS = {"asyncio.create_task", "asyncio.ensure_future", "asyncio.to_thread", "time.sleep"}
BANNED_NAMES = {
    *("util", "utils", "helper", "helpers", "common", "misc", "base", "manager", "managers", "info", "data"),
}


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The full dotted name of everything imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def may_import(room: str, name: str) -> bool:
    head, _, inside = name.partition(".")
    if head == "agentd":
        return inside == "__version__" or any(f"{inside}.".startswith(f"{part}.") for part in MAY_IMPORT[room])
    if head in OUTSIDE:
        return room in OUTSIDE[head]
    return head in (PURE if room == "core" else sys.stdlib_module_names)


def of_another_dialect(parts: list[str], name: str) -> bool:
    of = name.split(".")
    return of[:2] == ["agentd", "dialects"] and parts[0] == "dialects" and of[2] in {*DIALECTS} - {parts[1]}


def banned_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = ast.unparse(node.func)
        default_executor = name.endswith(".run_in_executor") and [*map(ast.unparse, node.args[:1])] == ["None"]
        if name in BANNED_CALLS or default_executor or (name.endswith(".create_task") and "loop" in name):
            yield name


def violations(path: str, source: str) -> list[str]:
    """What is wrong with a module of agentd; ``path`` is relative to ``agentd/``, such as ``http/body.py``."""
    parts = path.removesuffix(".py").split("/")
    room = parts[0]
    if room not in MAY_IMPORT:
        return [f"{path}: {room} has no row in MAY_IMPORT"]
    tree = ast.parse(source)
    names = list(imports(tree, ".".join(["agentd", *parts[:-1]])))
    return [
        *(f"{path}: imports {name}" for name in names if not may_import(room, name)),
        *(f"{path}: imports {name}" for name in names if of_another_dialect(parts, name)),
        *(f"{path}: imports {name}" for name in names if name in BANNED_CALLS),
        *(f"{path}: calls {name}" for name in banned_calls(tree)),
        *(f"{path}: {part} says nothing" for part in parts if part in BANNED_NAMES),
    ]


def test_every_module_of_agentd_keeps_the_rules() -> None:
    files = sorted((TOP / "agentd").rglob("*.py"))
    assert files
    assert [line for f in files for line in violations(str(f.relative_to(TOP / "agentd")), f.read_text())] == []


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [*(TOP / "agentd").rglob("*.py"), *(TOP / "tests").rglob("*.py")]
    lengths = {str(f.relative_to(TOP)): len(f.read_text().splitlines()) for f in files}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("files/listing.py", "import agentd.uploads.registry"),
        ("uploads/registry.py", "from agentd.processes import registry"),
        ("processes/pty.py", "from ..files import listing"),
        ("files/listing.py", "from agentd.http.body import Body"),
        ("uploads/registry.py", "import aiohttp"),
        ("dialects/duvo.py", "def late():\n    from aiohttp import web"),
        ("dialects/duvo.py", "from agentd.dialects.nullspace.wire import FileInfo"),
        ("dialects/daytona/git.py", "from agentd.dialects import nullspace"),
        ("core/parts.py", "import os"),
        ("core/parts.py", "from agentd.linux import root"),
        ("core/parts.py", "import aiohttp"),
        ("linux/root.py", "from agentd.core import parts"),
        ("http/server.py", "from agentd.linux.root import Root"),
        ("http/server.py", "from agentd.dialects import nullspace"),
        ("dialects/values.py", "from agentd.dialects.daytona.wire import tell"),
        ("errors.py", "import agentd.core"),
        ("telemetry.py", "from . import errors"),
        ("uploads/registry.py", "from agentd.config import Settings"),
        ("daemon.py", "from agentd import client"),
        ("files/search.py", "import ctypes"),
        ("files/search.py", "import requests"),
        ("files/watch.py", "import asyncio\nasyncio.create_task(run())"),
        ("files/watch.py", "from asyncio import create_task"),
        ("files/watch.py", "import asyncio\nasyncio.get_running_loop().create_task(run())"),
        ("files/watch.py", "loop.run_in_executor(None, read)"),
        ("files/utils.py", ""),
        ("common/retry.py", ""),
    ],
)
def test_what_breaks_a_rule_is_reported_once(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("files/listing.py", "from agentd.linux.root import Root\nfrom . import search"),
        (
            "http/body.py",
            "import aiohttp\nfrom agentd.linux import threads\nfrom agentd.linux.threads import in_thread",
        ),
        ("core/parts.py", "from msgspec import Struct\nfrom agentd.errors import Conflict"),
        ("cli/put.py", "from agentd import __version__\nfrom agentd.client import Client\nimport rich.progress"),
        ("daemon.py", "async with asyncio.TaskGroup() as group:\n    group.create_task(serve())"),
    ],
)
def test_what_keeps_the_rules_is_not_reported(path: str, source: str) -> None:
    assert violations(path, source) == []
