"""The process routes of the native API, spoken to a daemon of a test."""

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import ANSWER_SECONDS, Answer, Daemon
from tests.uploading import MACHINE

BOB = 40001


def with_bob(place: Path, *flags: str) -> Daemon:
    """A daemon whose sandbox, place/root, has a user bob who may reach and use its workspace."""
    (place / "root/etc").mkdir(parents=True)
    (place / "root/etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nbob:x:{BOB}:{BOB}::/home/bob:/bin/sh\n")
    for directory in (place, *place.parents):
        if directory.stat().st_mode & 0o777 == 0o700 and directory.name.startswith(("pytest-", "popen-", place.name)):
            directory.chmod(0o711)
    flags = ("--processes-grace", "0.1", *flags)
    daemon = Daemon(place / "root", place / "stderr", flags, {"AGENTD_TEST_SECRET": "hidden"})
    (place / "root/workspace").chmod(0o777)
    return daemon


@contextmanager
def running(place: Path, *flags: str) -> Iterator[Daemon]:
    """`with_bob`, ended in any case."""
    daemon = with_bob(place, *flags)
    try:
        yield daemon
    finally:
        daemon.term()


def alive(root: Path) -> list[int]:
    """Processes that stand in a directory of this sandbox."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # Others come and go meanwhile, and a glob that meets one of them raises, or ends too early.
        with suppress(OSError):
            if Path(f"/proc/{pid}/cwd").readlink().is_relative_to(root / "workspace"):
                found.append(int(pid))
    return found


class Shell:
    """prefix: the mount that is spoken to."""

    def __init__(self, daemon: Daemon, prefix: str = MACHINE) -> None:
        self.daemon = daemon
        self.prefix = prefix

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        return self.daemon.call(method, self.prefix + path, body, headers)

    def exec(self, command: str, *args: str, **more: Any) -> Answer:
        """A program with its arguments."""
        key = more.pop("key", None)
        body = {"command": command, "args": list(args), **more}
        return self.call("POST", "/exec", body, {"Idempotency-Key": key} if key else None)

    def run(self, script: str, **more: Any) -> Any:
        """The answer to a command for the shell, which has to be one."""
        answer = self.exec(script, shell=True, **more)
        assert answer.status == 200, answer.body
        return answer.json()

    def begin(self, script: str, **more: Any) -> int:
        """The pid of a command in the background."""
        pid: int = self.run(script, background=True, **more)["pid"]
        return pid

    def detail(self, pid: int) -> Any:
        return self.call("GET", f"/processes/{pid}").json()

    def logs(self, pid: int) -> Any:
        return self.call("GET", f"/processes/{pid}/logs").json()

    def wait(self, pid: int, seconds: float = ANSWER_SECONDS) -> Any:
        return self.call("POST", f"/processes/{pid}/wait", {"timeout_secs": seconds}).json()

    def post(self, pid: int, what: str, **body: Any) -> int:
        return self.call("POST", f"/processes/{pid}/{what}", body).status

    def events(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[Any]:
        """The lines of an answer in NDJSON, as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=ANSWER_SECONDS)
        try:
            sent = {"Authorization": f"Bearer {self.daemon.token}", "Content-Type": "application/json", **headers}
            connection.request(method, self.prefix + path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            while line := answer.readline():
                if line.strip():
                    yield json.loads(line)
        finally:
            connection.close()

    def follow(self, pid: int, cursor: int = 0) -> Iterator[Any]:
        return self.events("GET", f"/processes/{pid}/stream?cursor={cursor}")
