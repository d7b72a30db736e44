"""`agentd get` while the daemon dies under it and comes back."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.waiting import eventually

BIG = 64 << 20  # bytes; more than all buffers on the way hold
pytestmark = pytest.mark.timeout(60 * UNIT)


@pytest.fixture
def big(daemon: Daemon) -> Path:
    path = daemon.root / "workspace/big"
    with path.open("wb") as file:
        file.write(b"begin")
        file.truncate(BIG - 3)
        file.seek(0, os.SEEK_END)
        file.write(b"end")
    return path


def getting(daemon: Daemon, where: Path, *words: str) -> "subprocess.Popen[bytes]":
    token = daemon.root / "workspace/.nullspace/token"
    more = {"AGENTD_URL": daemon.url, "AGENTD_TOKEN_FILE": str(token), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "agentd", "get", "/workspace/big", *words]
    return subprocess.Popen(
        command, cwd=where, env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def die_and_come_back(daemon: Daemon) -> None:
    daemon.kill9()
    daemon.restart("--listen", f"127.0.0.1:{daemon.port}")


def test_a_download_goes_on_after_the_daemons_death(daemon: Daemon, big: Path, tmp_path: Path) -> None:
    with getting(daemon, tmp_path, "-") as got:
        assert got.stdout
        begun = got.stdout.read(1 << 20)  # from here on it waits for its reader
        die_and_come_back(daemon)
        whole = begun + got.stdout.read()
        err = got.communicate()[1]
    assert (got.returncode, whole == big.read_bytes()) == (0, True), err
    assert [line["status"] for line in daemon.log() if line.get("endpoint") == "files.read"] == [206]


def test_what_has_gone_down_a_pipe_cannot_start_over(daemon: Daemon, big: Path, tmp_path: Path) -> None:
    with getting(daemon, tmp_path, "-") as got:
        assert got.stdout
        got.stdout.read(1 << 20)
        big.write_bytes(b"other")
        die_and_come_back(daemon)
        err = got.communicate()[1]
    assert (got.returncode, b"/workspace/big changed after" in err) == (1, True)


def test_a_file_starts_over_when_it_changed_meanwhile(daemon: Daemon, big: Path, tmp_path: Path) -> None:
    def begun() -> bool:
        return any(path.stat().st_size for path in tmp_path.glob(".agentd-get-*"))

    os.truncate(big, 8 * BIG)  # time enough to stop it midway
    with getting(daemon, tmp_path, "here") as got:
        assert eventually(begun)
        got.send_signal(signal.SIGSTOP)
        daemon.kill9()
        big.write_bytes(b"other")
        daemon.restart("--listen", f"127.0.0.1:{daemon.port}")
        got.send_signal(signal.SIGCONT)
        err = got.communicate()[1]
    assert got.returncode == 0, err
    assert (tmp_path / "here").read_bytes() == b"other"
    assert not begun()
