"""`agentd doctor`: what it says of a machine, and of what is wrong with it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentd import __version__
from agentd.http import listen
from tests.conftest import UNIT, Daemon
from tests.process.harness.cli import SECONDS, Cli
from tests.process.harness.mounts import mounted

pytestmark = pytest.mark.timeout(60 * UNIT)

NOT_ROOT = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search")
NOT_ROOT += ("--ambient-caps=-all,+dac_read_search", "--bounding-set=-all,+dac_read_search")


def doctor(root: Path, *flags: str, prefix: tuple[str, ...] = ()) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """The exit status, and the findings by name."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
    where = () if "--listen" in flags else ("--listen", "127.0.0.1:0")
    command = [*prefix, sys.executable, "-m", "agentd", "doctor", "--json", "--root", str(root), *where, *flags]
    done = subprocess.run(command, env=ours, capture_output=True, timeout=SECONDS)
    assert done.returncode in (0, 1, 3), done.stderr
    told = json.loads(done.stdout)
    found: dict[str, list[dict[str, str]]] = {}
    for one in told["findings"]:
        found.setdefault(one["name"], []).append(one)
    worst = {0: ("ok", "note"), 1: ("broken",), 3: ("degraded",)}[done.returncode]
    assert told["level"] in worst
    return done.returncode, found


def levels(found: dict[str, list[dict[str, str]]], name: str) -> set[str]:
    return {one["level"] for one in found[name]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_it_finds_a_running_daemon_and_what_that_has(daemon: Daemon) -> None:
    status, found = doctor(daemon.root, "--listen", f"127.0.0.1:{daemon.port}")
    assert status in (0, 3), found
    assert __version__ in found["daemon"][0]["what"]
    assert "a daemon listens there" in found["listen"][0]["what"]
    for name in ("root", "own directory", "workspace", "token", "users", "python", "kernel", "daemon"):
        assert levels(found, name) == {"ok"}, found[name]


def test_it_leaves_nothing_behind(root: Path) -> None:
    status, found = doctor(root)
    assert status in (0, 3), found
    assert levels(found, "workspace") == {"note"}
    assert [*root.iterdir()] == []


def test_people_get_a_line_for_each_and_what_to_do(daemon: Daemon, tmp_path: Path) -> None:
    done = Cli(daemon, tmp_path).run("doctor", "--root", "/does/not/exist")
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("broken    root"))
    assert lines[at + 1].strip() == "-> name another sandbox directory with --root DIR"


def test_where_there_is_no_token_to_ask_a_daemon_with_that_is_a_note(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "other/workspace/.nullspace").mkdir(0o700, parents=True)
    _, found = doctor(tmp_path / "other", "--url", daemon.url)
    assert (levels(found, "token"), levels(found, "daemon")) == ({"note"}, {"note"})
    assert found["daemon"][0]["what"] == f"{daemon.url} answers, but there is no token to ask with"
    assert found["daemon"][0]["advice"] == "name one with --token-file"


def foreign(root: Path) -> None:
    (root / "workspace/.nullspace").mkdir(parents=True)
    os.chown(root / "workspace/.nullspace", 40001, 40001)


def open_token(root: Path) -> None:
    (root / "token").write_text("secret\n")
    (root / "token").chmod(0o644)


def not_writable(root: Path) -> None:
    (root / "workspace").mkdir()
    (root / "workspace").chmod(0o755)


Make = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("make", "flags", "name", "level"),
    [
        (foreign, (), "own directory", "broken"),
        (open_token, ("--token-file", "{root}/token"), "token", "degraded"),
        (open_token, ("--token-file", "{root}/nothing"), "token", "broken"),
        (not_writable, ("--default-user", "40001"), "workspace", "degraded"),
        (not_writable, ("--default-user", "nobody-such"), "default user", "broken"),
        (not_writable, ("--processes-shell", "/no/shell"), "shell", "degraded"),
        (not_writable, ("--uploads-min-free-bytes", "900000GiB"), "space", "broken"),
        (not_writable, ("--limits-connections", "100000000"), "open files", "degraded"),
        (not_writable, ("--listen", "no-address"), "listen", "broken"),
        (not_writable, ("--listen", "unix:/no/such/directory/socket"), "listen", "broken"),
        (not_writable, ("--listen", "0.0.0.0:0", "--insecure"), "listen", "broken"),
        (not_writable, ("--url", "http://127.0.0.1:1"), "daemon", "broken"),
        (not_writable, ("--uploads-part-size", "much"), "configuration", "broken"),
    ],
)
def test_what_is_wrong_is_found(root: Path, make: Make, flags: tuple[str, ...], name: str, level: str) -> None:
    make(root)
    status, found = doctor(root, *(flag.format(root=root) for flag in flags))
    assert level in levels(found, name), found
    assert all(one["advice"] for one in found[name] if one["level"] == level)
    assert status == (1 if level == "broken" else status)


def test_an_address_that_somebody_else_has_is_found(root: Path) -> None:
    (one,) = listen.bind("127.0.0.1:0")
    with closing(one):
        one.listen()
        status, found = doctor(root, "--listen", f"127.0.0.1:{one.getsockname()[1]}")
    assert (status, levels(found, "listen")) == (1, {"broken"})


def test_a_user_who_can_act_as_nobody_else_is_told_so(root: Path, tmp_path: Path) -> None:
    for directory in (root, tmp_path, *tmp_path.parents):
        if directory.name.startswith(("pytest-", "popen-", tmp_path.name)):
            directory.chmod(0o711)
    root.chmod(0o777)
    _, found = doctor(root, prefix=NOT_ROOT)
    assert levels(found, "users") == {"note"}
    status, found = doctor(root, "--default-user", "root", prefix=NOT_ROOT)
    assert (status, levels(found, "users")) == (1, {"broken"})


def test_a_workspace_where_nothing_can_be_made_is_broken(root: Path) -> None:
    (root / "workspace").mkdir()
    with mounted(Path("/proc"), root / "workspace"):
        status, found = doctor(root)
    assert (status, levels(found, "file system")) == (1, {"broken"})
