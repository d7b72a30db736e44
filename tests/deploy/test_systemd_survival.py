"""What a service manager keeps for the daemon: terminals and processes go on while it is replaced."""

import signal
from collections.abc import Callable

import pytest

from tests.deploy.service import SERVICE, Service
from tests.process.harness.waiting import eventually
from tests.processes import Shell
from tests.terminals import screen

UNTIL_TOLD = "echo before; until [ -e /workspace/go ]; do sleep 0.01; done; echo after; exit 7"


def crash(service: Service) -> None:
    service.kill(signal.SIGKILL)


def restart(service: Service) -> None:
    service.machine.run("systemctl", "restart", SERVICE)


@pytest.mark.parametrize("replace", [crash, restart])
async def test_terminals_and_processes_go_on(started: Service, replace: Callable[[Service], None]) -> None:
    shell, before = Shell(started), started.pid
    pid = shell.begin(UNTIL_TOLD)
    async with screen(started) as one:
        session = (await one.open())["session_id"]
        await one.type("kept=here; echo $((6 * 7))\n")
        await one.until(b"42")
    replace(started)
    assert eventually(started.replaced(before))
    started.machine.write("/workspace/go", "")
    assert shell.wait(pid)["exit_code"] == 7
    assert shell.logs(pid)["stdout"] == "before\nafter\n"
    async with screen(started) as again:
        await again.open("pty_connect", session_id=session)
        await again.type("echo still $kept\n")
        await again.until(b"still here")


async def test_a_stop_ends_them_all(started: Service) -> None:
    Shell(started).begin("sleep 1000 & setsid sleep 1000 & wait")
    async with screen(started) as one:
        await one.open()
    started.machine.run("systemctl", "stop", "agentd.socket", SERVICE)
    assert started.machine.show(SERVICE, "NFileDescriptorStore") == "0"
    assert started.machine.run("pgrep", "-u", "sandbox", check=False) == ""


async def test_they_go_on_for_one_confined_user_too(service: Service) -> None:
    service.confine()
    service.start()
    shell, before = Shell(service), service.pid
    pid = shell.begin(UNTIL_TOLD)
    async with screen(service) as one:
        session = (await one.open())["session_id"]
    restart(service)
    assert service.pid != before
    async with screen(service) as again:
        await again.open("pty_connect", session_id=session)
        await again.type("touch /workspace/go; echo still $((6 * 7))\n")
        await again.until(b"still 42")
    assert shell.wait(pid)["exit_code"] == 7
