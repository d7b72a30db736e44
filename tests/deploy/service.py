"""agentd as a service of a booted machine: installed with ``agentd manifest systemd``, as the README has it."""

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ANSWER_SECONDS, Daemon
from tests.deploy.booted import PROGRAM, PROGRAMS, Machine, booted
from tests.process.harness.waiting import eventually

SERVICE, SOCKET = "agentd.service", "agentd.socket"
UNITS = "/etc/systemd/system"
UNIX = "/run/agentd.sock"


class Service(Daemon):
    """Asked over TCP, like any other daemon of a test; its life is systemd's."""

    token = ""

    def __init__(self, machine: Machine, *options: str) -> None:
        self.machine = machine
        self.root = machine.root
        self.token = machine.credential
        self.url = f"http://127.0.0.1:{_free_port()}"
        listen = ("--listen", f"127.0.0.1:{self.port}", "--listen", f"unix:{UNIX}")
        machine.run(PROGRAM, "manifest", "systemd", "--output=/", f"--program={PROGRAM}", *listen, *options)
        # What takes part in a drain is a test's own affair.
        self.drop_in("quick", "Environment=AGENTD_DRAIN_NOTICE=0", reload=False)
        machine.run("systemd-sysusers")
        machine.run("systemd-tmpfiles", "--create")
        machine.run("systemctl", "daemon-reload")

    @property
    def pid(self) -> int:
        return int(self.machine.show(SERVICE, "MainPID"))

    @property
    def state(self) -> str:
        return self.machine.show(SERVICE, "ActiveState")

    def drop_in(self, name: str, *lines: str, unit: str = SERVICE, reload: bool = True) -> None:
        text = "\n".join(lines if lines[0].startswith("[") else ("[Service]", *lines))
        self.machine.write(f"{UNITS}/{unit}.d/{name}.conf", f"{text}\n")
        if reload:
            self.machine.run("systemctl", "daemon-reload")

    def activate(self, example: str, unit: str = SERVICE) -> None:
        """One of the examples that were installed."""
        place = self.machine.path(f"{UNITS}/{unit}.d/{example}.conf.example")
        place.rename(place.with_suffix(""))
        self.machine.run("systemctl", "daemon-reload")

    def confine(self) -> None:
        """To one user, who is to reach the tests' Python."""
        for place in Path(sys.base_prefix).parents:
            self.machine.path(str(place)).chmod(0o755)
        self.activate("confined")

    def start(self) -> None:
        """As at boot; what it says where that fails."""
        try:
            self.machine.run("systemctl", "enable", "--now", SOCKET, SERVICE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.machine.journal(SERVICE)}") from None

    def kill(self, number: signal.Signals) -> None:
        """To the daemon alone."""
        self.machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number.name}", SERVICE)

    def unix(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(self.machine.path(UNIX)))
        return connection

    def replaced(self, pid: int) -> Callable[[], bool]:
        """Whether another daemon has taken the place of the one with this pid, and is ready."""
        return lambda: self.state == "active" and self.pid not in (0, pid)

    def await_state(self, state: str) -> None:
        assert eventually(lambda: self.state == state), self.machine.journal(SERVICE)


@pytest.fixture
def machine(tmp_path: Path, needs: Callable[..., None]) -> Iterator[Machine]:
    needs(*PROGRAMS)
    place = tmp_path / "machine"
    place.mkdir()
    with booted(place) as started:
        yield started


@pytest.fixture
def service(machine: Machine) -> Service:
    """Installed, not started."""
    return Service(machine)


@pytest.fixture
def started(service: Service) -> Service:
    service.start()
    return service


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port
