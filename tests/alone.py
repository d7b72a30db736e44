"""A stand-alone daemon of a test, and what is created there."""

import json
import os
from collections.abc import Mapping
from typing import Any

from tests.conftest import Answer, Daemon

FLAGS = ("--standalone", "--processes-grace", "0.3")
# What each API answers for a handle at once: method, path and body.
ASKED: dict[str, tuple[str, str, Mapping[str, Any] | None]] = {
    "nullspace machines": ("GET", "/v1/machines/{}/processes", None),
    "nullspace sandboxes": ("GET", "/v1/sandboxes/{}/processes", None),
    "daytona": ("POST", "/daytona/toolbox/{}/process/execute", {"command": "true"}),
    "duvo": ("GET", "/duvo/v1/sandboxes/{}/files", None),
    "blackbox": ("GET", "/blackbox/api/v1/tasks/{}/files", None),
    "conway": ("POST", "/conway/v1/sandboxes/{}/exec", {"command": "true"}),
}


class Machine:
    """One handle, spoken of by the native API."""

    def __init__(self, daemon: Daemon, headers: Mapping[str, str] | None = None, /, **body: Any) -> None:
        self.daemon = daemon
        answer = daemon.call("POST", "/v1/machines", body, headers)
        assert answer.status == 201, answer.body
        self.created = answer.json()
        self.id = self.created["id"]

    def __call__(self, method: str, route: str = "", body: Mapping[str, Any] | None = None) -> Answer:
        return self.daemon.call(method, f"/v1/machines/{self.id}{route}", body)

    def run(self, command: str) -> str:
        """What a line for the shell writes."""
        answer = self("POST", "/exec", {"command": command, "shell": True})
        assert answer.status == 200, answer.body
        said: str = answer.json()["stdout"]
        return said

    def begin(self, command: str) -> int:
        """The pid of a line for the shell that runs beside."""
        answer = self("POST", "/exec", {"command": command, "shell": True, "background": True})
        pid: int = answer.json()["pid"]
        return pid

    @property
    def status(self) -> str:
        """running, paused, or the code of the error."""
        told = self("GET").json()
        word: str = told.get("status") or told["code"]
        return word


def runs(pid: int) -> bool:
    """Whether it is there and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def asked(daemon: Daemon, name: str, ident: str) -> Answer:
    method, path, body = ASKED[name]
    return daemon.call(method, path.format(ident), body)


def records(daemon: Daemon) -> list[str]:
    return sorted(os.listdir(daemon.root / "workspace/.nullspace/handles"))


def sandbox(daemon: Daemon, **body: Any) -> dict[str, Any]:
    """One handle, created by Daytona's API."""
    answer = daemon.call("POST", "/daytona/api/sandbox", body)
    assert answer.status == 200, answer.body
    made: dict[str, Any] = json.loads(answer.body)
    return made
