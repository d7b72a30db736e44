"""`agentd ...` as a process, and at a terminal of its own."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import UNIT, Daemon

SECONDS = 30 * UNIT


class Cli:
    """Runs `agentd ...` against one daemon, in a directory of its own."""

    def __init__(self, daemon: Daemon, place: Path) -> None:
        self.place = place
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        self.environment = ours | {
            "AGENTD_URL": daemon.url,
            "AGENTD_TOKEN_FILE": str(daemon.root / "workspace/.nullspace/token"),
            "PYTHONPATH": os.getcwd(),
        }

    def start(self, *words: str, **more: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "agentd", *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.place, env=self.environment, **pipes | more)  # type: ignore[call-overload,no-any-return]

    def run(self, *words: str, given: bytes = b"", **more: object) -> "subprocess.CompletedProcess[bytes]":
        with self.start(*words, **more) as process:
            out, err = process.communicate(given, timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def says(self, *words: str, given: bytes = b"") -> str:
        """What a command that succeeds prints."""
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()


class Seat:
    """A terminal with a program at it. seen: all that it has shown so far. modes: of the terminal, at the beginning."""

    def __init__(self, command: list[str], environment: Mapping[str, str], cols: int = 80, rows: int = 24) -> None:
        self.ours, theirs = pty.openpty()
        self.seen = b""
        self.resize(cols, rows)
        self.modes = termios.tcgetattr(self.ours)
        with open(theirs, "rb", buffering=0):
            self.process = subprocess.Popen(
                command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_take_terminal
            )

    def __enter__(self) -> "Seat":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.ours, text)

    def until(self, text: bytes) -> bytes:
        """All that was shown, once ``text`` was."""
        while text not in self.seen:
            piece = self._read()
            assert piece, self.seen
            self.seen += piece
        return self.seen

    def echoes(self, key: bytes) -> bool:
        """Types it; whether it has been seen by now."""
        self.type(key)
        while select.select([self.ours], [], [], 0.1)[0] and (piece := self._read()):
            self.seen += piece
        return key in self.seen

    def ended(self) -> int:
        """The exit status."""
        # What is still shown has to be taken, or it would wait for that.
        while piece := self._read():
            self.seen += piece
        return self.process.wait(SECONDS)

    def _read(self) -> bytes:
        assert select.select([self.ours], [], [], SECONDS)[0], self.seen
        with suppress(OSError):  # Linux says EIO when the other side has gone
            return os.read(self.ours, 65536)
        return b""


def at_a_terminal(cli: Cli, *words: str, **more: Any) -> Seat:
    environment = {name: text for name, text in cli.environment.items() if name not in ("COLUMNS", "LINES")}
    return Seat([sys.executable, "-m", "agentd", *words], environment | {"TERM": "xterm"}, **more)


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
