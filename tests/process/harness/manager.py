"""A service manager as a daemon sees it: it hears what the daemon notifies, keeps fds for it (sd_notify(3), FDSTORE=1)
and hands them to the next one (sd_listen_fds(3))."""

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.conftest import ANSWER_SECONDS, Daemon

_MOST_FDS = 250
# What is started in the daemon's place: it takes the fds, names them, and executes the daemon.
_HANDING = """
import fcntl, os, socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.connect("\\0" + sys.argv[1])
    names, fds = "", []
    while (part := socket.recv_fds(one, 65536, 250))[0]:
        names, fds = names + part[0].decode(), [*fds, *part[1]]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 512) for fd in fds]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
for fd in high:
    os.close(fd)
more = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names.rstrip(":")}
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, **(more if fds else {})})
"""


class Manager:
    """store: the fds that it keeps, by name. heard: lines of the daemon that are about none of them. full: it takes no
    more fds."""

    def __init__(self) -> None:
        self.name = f"agentd-test-{secrets.token_hex(8)}"
        self.store: dict[str, list[int]] = {}
        self.heard: list[str] = []
        self.full = False
        self._heard_all = threading.Semaphore(0)
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind("\0" + self.name)
        self._handing = socket.socket(socket.AF_UNIX)
        self._handing.bind(f"\0{self.name}-fds")
        self._handing.listen()
        self._threads = [threading.Thread(target=job, daemon=True) for job in (self._hear, self._hand)]
        for thread in self._threads:
            thread.start()

    @property
    def environment(self) -> Mapping[str, str]:
        return {"NOTIFY_SOCKET": f"@{self.name}"}

    @property
    def prefix(self) -> tuple[str, ...]:
        return sys.executable, "-I", "-S", "-c", _HANDING, f"{self.name}-fds"

    def names(self) -> list[str]:
        """Of what is in the store, once all that was sent has come."""
        self._send(b"TEST=1")
        assert self._heard_all.acquire(timeout=ANSWER_SECONDS)
        return sorted(self.store)

    def close(self) -> None:
        self._handing.shutdown(socket.SHUT_RDWR)
        self._send(b"TEST=end")
        for thread in self._threads:
            thread.join()
        self._handing.close()
        self._notified.close()
        for name in [*self.store]:
            self._drop(name)

    def _send(self, content: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.sendto(content, "\0" + self.name)

    def _drop(self, name: str) -> None:
        for fd in self.store.pop(name, []):
            os.close(fd)

    def _hear(self) -> None:
        while True:
            content, fds, _, _ = socket.recv_fds(self._notified, 65536, _MOST_FDS)
            lines = content.decode().splitlines()
            name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "stored")
            if content == b"TEST=end":
                return
            if content == b"TEST=1":
                self._heard_all.release()
            elif "FDSTORE=1" in lines and not self.full:
                self.store.setdefault(name, []).extend(fds)
            elif "FDSTOREREMOVE=1" in lines:
                self._drop(name)
            else:
                self.heard += lines
                for fd in fds:
                    os.close(fd)

    def _hand(self) -> None:
        with suppress(OSError):
            while True:
                with self._handing.accept()[0] as one:
                    self.names()
                    pairs = [(name, fd) for name, fds in self.store.items() for fd in fds]
                    while pairs:
                        part, pairs = pairs[:_MOST_FDS], pairs[_MOST_FDS:]
                        names = "".join(f"{name}:" for name, _ in part)
                        socket.send_fds(one, [names.encode()], [fd for _, fd in part])


class Managed(Daemon):
    """A daemon of a manager."""

    def __init__(self, place: Path, manager: Manager, *flags: str) -> None:
        self.prefix = manager.prefix
        self.manager = manager
        (place / "root").mkdir()
        super().__init__(place / "root", place / "stderr", ("--processes-grace", "0.1", *flags), manager.environment)

    def die(self) -> None:
        """It is killed, and started again."""
        self.signal(signal.SIGKILL)
        self.restart()
