"""The published ``daytona`` SDK, in an environment of its own, pointed at a stand-alone daemon."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import Daemon
from tests.contract.clients import Driver, make_environment, shared

VERSION = "0.226.1"


class Refused(Exception):
    """kind: of the SDK's exception."""

    def __init__(self, kind: str, status: int | None, text: str) -> None:
        super().__init__(f"{kind}, {status}: {text}")
        self.kind = kind
        self.status = status


@dataclass(frozen=True)
class Sdk:
    """``sdk("client.list")``; ``sdk("box.fs.list_files", "/workspace")`` after ``sdk("client.create", keep="box")``."""

    driver: Driver
    style: str
    url: str
    token: str

    def __call__(self, call: str, /, *positional: Any, keep: str = "", **named: Any) -> Any:
        about = {"style": self.style, "url": f"{self.url}/daytona/api", "token": self.token}
        self.driver.send({**about, "call": call, "positional": positional, "named": named, "keep": keep})
        answer = json.loads(self.driver.read())
        if "error" in answer:
            raise Refused(**answer["error"])
        return answer["result"]

    def create(self, keep: str, **params: Any) -> Any:
        return self("client.create", make("CreateSandboxFromSnapshotParams", **params), keep=keep)

    def run(self, name: str, command: str, **named: Any) -> tuple[int, str]:
        """Exit code and output of a command in a kept sandbox."""
        ran = self(f"{name}.process.exec", command, **named)
        return ran["exit_code"], ran["result"]


def make(kind: str, /, **values: Any) -> Mapping[str, Any]:
    return {"make": kind, "values": values}


@contextmanager
def driven(beside: Path) -> Iterator[Driver]:
    """The driver, with the SDK and what that needs in an environment that the processes of a test run share."""
    with shared(beside / f"daytona-{VERSION}", _install) as place:
        driver = Driver(None, str(place / "bin/python"), "daytona_sdk_driver.py")
        try:
            assert json.loads(driver.read()) == {"version": VERSION}
            yield driver
        finally:
            driver.close()


def _install(place: Path) -> None:
    make_environment(place, f"daytona=={VERSION}")


def ready(daemon: Daemon, driver: Driver, style: str) -> Sdk:
    return Sdk(driver, style, daemon.url, daemon.token)
