"""`agentd watch`: changes as they happen, also with the daemon that comes next."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.cli import SECONDS, Cli

pytestmark = pytest.mark.timeout(60 * UNIT)


@pytest.fixture
def cli(daemon: Daemon, tmp_path: Path) -> Cli:
    return Cli(daemon, tmp_path)


class Watching:
    """`agentd watch --json`, a change at a time."""

    def __init__(self, cli: Cli, *words: str) -> None:
        self.process: subprocess.Popen[bytes] = cli.start("watch", "--json", *words)

    def __enter__(self) -> "Watching":
        self.until("started")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def until(self, event: str) -> dict[str, Any]:
        assert self.process.stdout
        while line := self.process.stdout.readline():
            told: dict[str, Any] = json.loads(line)
            if told["event"] == event:
                return told
        raise AssertionError(f"it ended: {self.process.stderr.read()!r}")  # type: ignore[union-attr]


def test_changes_are_told_as_they_happen_below_too(cli: Cli, daemon: Daemon) -> None:
    (daemon.root / "workspace/below").mkdir()
    with Watching(cli, "--recursive", "/workspace") as watching:
        (daemon.root / "workspace/below/file").write_bytes(b"x")
        assert watching.until("create")["path"] == "/workspace/below/file"
        (daemon.root / "workspace/below/file").rename(daemon.root / "workspace/below/moved")
        assert watching.until("rename")["old_path"] == "/workspace/below/file"


def test_people_get_a_line_for_each_and_an_interrupt_ends_it(cli: Cli, daemon: Daemon) -> None:
    with cli.start("watch", "/workspace") as process:
        assert process.stderr
        assert process.stdout
        assert process.stderr.readline() == b"agentd watch: watching /workspace\n"
        (daemon.root / "workspace/file").write_bytes(b"x")
        assert process.stdout.readline().split()[1:] == [b"create", b"/workspace/file"]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130


@pytest.mark.parametrize("end", [Daemon.kill9, Daemon.term], ids=["killed", "ended"])
def test_it_goes_on_with_the_next_daemon_and_says_so(cli: Cli, daemon: Daemon, end: Any) -> None:
    with Watching(cli, "/workspace") as watching:
        end(daemon)
        daemon.restart("--listen", f"127.0.0.1:{daemon.port}")
        assert watching.until("resumed")["path"] == "/workspace"
        (daemon.root / "workspace/after").write_bytes(b"")
        assert watching.until("create")["path"] == "/workspace/after"


def test_the_end_of_what_is_watched_is_the_end(cli: Cli, daemon: Daemon) -> None:
    (daemon.root / "workspace/dir").mkdir()
    with Watching(cli, "/workspace/dir") as watching:
        (daemon.root / "workspace/dir").rmdir()
        assert watching.until("end")["reason"] == "removed"
        assert watching.process.wait(SECONDS) == 1
        assert b"/workspace/dir is watched no longer: it was removed" in watching.process.stderr.read()  # type: ignore[union-attr]


def test_what_is_not_there_cannot_be_watched(cli: Cli) -> None:
    done = cli.run("watch", "/workspace/nothing")
    assert (done.returncode, b"not_found" in done.stderr) == (1, True)
