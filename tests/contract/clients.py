"""The published clients, each version in an interpreter of its own, since they share one module name."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.conftest import UNIT

CURRENT, OLD = "1.0.3", "0.1.9"  # the current one is in this environment (the extra "contract")
AS_ARCHIVE = {"kind": "directory_tar", "source_kind": "directory_archive", "archive_format": "tar"}
CALL_SECONDS = 60 * UNIT


class Refused(Exception):
    """What the client raised: the name of its class, and the attributes that its users are promised."""

    def __init__(self, error: SimpleNamespace) -> None:
        super().__init__(f"{error.kind}, {error.code}, {error.reason}: {error.message}")
        self.kind: str = error.kind
        self.code: str | None = error.code
        self.reason: str | None = error.reason
        self.upload_id: str | None = error.upload_id
        self.part_number: int | None = error.part_number
        self.path: str | None = error.path
        self.retryable: bool | None = error.retryable
        self.details: Any = error.details
        self.request_id: str | None = error.request_id

    @property
    def word(self) -> tuple[str, str | None]:
        """The class, and the reason or else the code."""
        return self.kind, self.reason or self.code


class Driver:
    """A driver (``driver.py`` or another ``script``) with one version of a client. One call at a time."""

    def __init__(
        self, packages: Path | None, python: str = sys.executable, script: str = "driver.py", *arguments: str
    ) -> None:
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        if packages is not None:
            environment["PYTHONPATH"] = str(packages)
        self._process = subprocess.Popen(
            [python, "-P", str(Path(__file__).with_name(script)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._busy = False

    def send(self, request: dict[str, Any]) -> None:
        if self._busy:  # a test failed before it took its answer
            self.receive()
        self._busy = True
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request, default=os.fspath).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self) -> SimpleNamespace:
        answer: SimpleNamespace = json.loads(self.read(), object_hook=lambda found: SimpleNamespace(**found))
        return answer

    def read(self) -> bytes:
        """The next line that it says."""
        assert self._process.stdout is not None
        text = b""
        while not text.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], CALL_SECONDS)[0]:
                raise TimeoutError("the client does not come back")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise RuntimeError(f"the driver ended with {self._process.wait()}: its last words are on stderr")
            text += piece
        self._busy = False
        return text

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(CALL_SECONDS)
            finally:
                process.kill()


@dataclass(frozen=True)
class Client:
    """One version and style of the client, pointed at a daemon."""

    driver: Driver
    version: str
    style: str
    url: str
    token: str
    retries: int = 5
    machine: str = ""

    def at(self, url: str, **changes: Any) -> "Client":
        """The same client, pointed elsewhere; ``token=`` and ``retries=`` may change too."""
        return replace(self, url=url, **changes)

    def within(self, machine: str) -> "Client":
        """The same client, which speaks of a machine that it has created or connected to."""
        return replace(self, machine=machine)

    @property
    def any_error(self) -> str:
        """The class at the root of the client's errors."""
        return "SandboxError" if self.version == OLD else "MachineError"

    def start(self, method: str, *positional: Any, **named: Any) -> None:
        """Begins a call; `finish` gives its result."""
        self.driver.send(
            {
                "style": self.style,
                "url": self.url,
                "token": self.token,
                "retries": self.retries,
                "machine": self.machine,
                "method": method,
                "positional": positional,
                "named": named,
            }
        )

    def finish_with_progress(self) -> tuple[Any, Any]:
        answer = self.driver.receive()
        if hasattr(answer, "error"):
            raise Refused(answer.error)
        return answer.result, answer.progress

    def finish(self) -> Any:
        return self.finish_with_progress()[0]

    def __call__(self, method: str, *positional: Any, **named: Any) -> Any:
        self.start(method, *positional, **named)
        return self.finish()

    def upload(self, source: object, target: str | None, **named: Any) -> Any:
        """`upload_file` by parts, however small the file is."""
        return self("files.upload_file", source, target, resumable=True, **named)

    def upload_dir(self, source: object, target: str, **named: Any) -> Any:
        return self("files.upload_dir", source, target, **named)

    def resume(self, upload_id: str | None, source: object) -> Any:
        return self("files.resume_upload", upload_id, source)

    def create(self, target: str, size: int, **named: Any) -> Any:
        """A session of the low-level client, for a file unless told otherwise."""
        kind = {"kind": "file", "source_kind": "restartable_file", **named}
        return self("client.create_upload_session", target_path=target, content_length=size, **kind)

    def part(self, session: Any, number: int, source: Path, **named: Any) -> Any:
        """Sends the part that is at its place in ``source``; ``length=`` takes another number of bytes."""
        size = session.part_size
        bytes_of = {"read": source, "offset": number * size, "length": named.pop("length", size)}
        return self("client.upload_session_part", session.upload_id, number, bytes_of, **named)

    def status(self, session: Any) -> Any:
        return self("client.get_upload_session", session.upload_id)

    def complete(self, session: Any, **named: Any) -> Any:
        return self("client.complete_upload_session", session.upload_id, **named)

    def abort(self, session: Any) -> Any:
        return self("client.abort_upload_session", session.upload_id)


@contextmanager
def shared(packages: Path, install: Callable[[Path], None]) -> Iterator[Path]:
    """A directory that is filled by the first process that asks and removed by the last that leaves."""
    lock = packages.with_name(f"{packages.name}.mutex").open("w")
    with lock as mutex, packages.with_name(f"{packages.name}.users").open("w") as users:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if not packages.exists():
            unfinished = packages.with_name(f"{packages.name}.part")
            install(unfinished)
            unfinished.rename(packages)
        fcntl.flock(mutex, fcntl.LOCK_UN)
        try:
            yield packages
        finally:
            fcntl.flock(mutex, fcntl.LOCK_EX)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(packages)
            except BlockingIOError:
                pass


def installed(version: str, beside: Path) -> AbstractContextManager[Path]:
    """A directory with that version."""
    return shared(beside / f"nullspace-{version}", partial(_install, version))


@contextmanager
def environment(place: Path, *packages: str) -> Iterator[Path]:
    """The Python of an environment of its own in ``place``, with these packages; it is removed afterwards."""
    try:
        yield make_environment(place, *packages)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def make_environment(place: Path, *packages: str) -> Path:
    """Its Python."""
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-compile", *packages], check=True)
    return python


def _install(version: str, packages: Path) -> None:
    """Without its requirements: they are among those of the current version, but for one that it never imports."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
    ]
    subprocess.run([*pip, "--target", str(packages), f"nullspace-sdk=={version}"], check=True)
