"""A real systemd runs the units that ``agentd manifest systemd`` prints."""

import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from agentd.cli.manifest import main
from tests.conftest import UNIT
from tests.deploy.booted import Machine
from tests.deploy.service import SERVICE, SOCKET, UNITS, UNIX, Service
from tests.process.harness.waiting import eventually
from tests.processes import Shell
from tests.uploading import Client, content_of, running, sha256

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OURS = ("NOTIFY_SOCKET", "LISTEN_", "CREDENTIALS_DIRECTORY", "WATCHDOG_", "AGENTD_", "INVOCATION_ID", "PYTHON")
EX_CONFIG = "78"
# systemd-analyze security, times ten: of the unit, which starts anything as anybody, and of the drop-in for one user.
EXPOSED, CONFINED = 88, 21
MIB = 1 << 20


def alive(connection: socket.socket) -> bool:
    connection.sendall(LIVEZ)
    return connection.recv(100).startswith(b"HTTP/1.1 200")


def test_it_is_started_once_it_answers_and_says_where(started: Service) -> None:
    with started.connect() as tcp, started.unix() as unix:
        assert alive(tcp)
        assert alive(unix)
    text = started.machine.show(SERVICE, "StatusText")
    assert text == f"serving on {started.url} unix:{UNIX}"
    assert started.machine.path(UNIX).stat().st_mode & 0o777 == 0o600


def test_the_token_is_the_machine_s_credential(started: Service) -> None:
    assert started.call("GET", "/v1/files?path=/").status == 200
    assert started.call("GET", "/v1/files?path=/", token="wrong").status == 401
    assert not started.machine.path("/workspace/.nullspace/token").exists()


def test_a_token_file_is_a_credential_too_and_only_root_s(machine: Machine) -> None:
    machine.write("/etc/agentd-token", "of-the-file\n", 0o400)
    service = Service(machine, "--token-file", "/etc/agentd-token")
    service.start()
    assert service.call("GET", "/v1/files?path=/").status == 401
    service.token = "of-the-file"
    assert "ermission denied" in Shell(service).exec("cat", "/run/credentials/agentd.service/token").json()["stderr"]


def test_a_reload_takes_the_tokens_of_a_file_again(service: Service) -> None:
    service.machine.write("/etc/agentd/environment", "AGENTD_TOKEN_FILE=/etc/agentd/tokens\n")
    service.machine.write("/etc/agentd/tokens", "old\n")
    service.start()
    assert service.call("GET", "/v1/files", token="old").status == 200
    service.machine.write("/etc/agentd/tokens", "new\n")
    service.machine.run("systemctl", "reload", SERVICE)
    assert eventually(lambda: service.call("GET", "/v1/files", token="new").status == 200)
    assert service.call("GET", "/v1/files", token="old").status == 401


def test_what_it_starts_is_the_sandbox_user_s_and_finds_nothing_of_the_service(started: Service) -> None:
    shell = Shell(started)
    found = shell.run("id -un; pwd; env; ls /proc/self/fd | wc -l; cat /proc/self/oom_score_adj")["stdout"].split("\n")
    assert (found[0], found[1]) == ("sandbox", "/workspace")
    assert not [line for line in found if line.startswith(OURS)]
    assert found[-3:] == ["4", "0", ""]  # three, and the directory that ls reads
    assert shell.run("ulimit -c; ulimit -n")["stdout"].split() == ["0", "1024"]


def test_a_loop_that_hangs_is_ended_by_the_watchdog_and_says_where_it_was(service: Service) -> None:
    service.drop_in("watchdog", f"WatchdogSec={UNIT}")
    service.start()
    before = service.pid
    service.kill(signal.SIGSTOP)
    assert eventually(service.replaced(before))
    assert eventually(lambda: "Fatal Python error: Aborted" in service.machine.journal(SERVICE))


def test_an_upload_goes_on_after_a_crash_and_nobody_is_refused(service: Service) -> None:
    service.drop_in("parts", "Environment=AGENTD_UPLOADS_PART_SIZE=1MiB")
    service.start()
    content, client, before = content_of(3 * MIB), Client(service), service.pid
    session = client.begin("/workspace/big", len(content))
    client.send(session, content, [0])
    with running(client, session, 1, MIB) as cut:
        cut.sendall(content[MIB : MIB + 1000])
        service.kill(signal.SIGKILL)
    assert client.status(session)["accepted_bytes"] == MIB
    client.send(session, content, [1, 2])
    assert client.complete(session, sha256(content)).status == 200
    assert service.pid != before
    assert service.machine.path("/workspace/big").read_bytes() == content


def test_a_restart_refuses_nobody(started: Service) -> None:
    def ask() -> int:
        """How many connections were made until it was over; each of them has to be possible."""
        asked = 0
        while not over.is_set():
            with started.connect() as connection, suppress(ConnectionResetError):
                asked += alive(connection)
        return asked

    over, before = Event(), started.pid
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        started.machine.run("systemctl", "restart", SERVICE)
        over.set()
    assert started.replaced(before)()
    assert all(one.result() for one in asking)


def test_a_stop_lets_the_running_request_finish(started: Service) -> None:
    client, content = Client(started), b"x" * 1000
    session = client.begin("/workspace/late", len(content))
    with running(client, session, 0, len(content)) as part:
        started.machine.run("systemctl", "stop", "--no-block", SOCKET, SERVICE)
        assert eventually(lambda: started.machine.show(SERVICE, "StatusText") == "draining")
        part.sendall(content)
        assert part.recv(100).startswith(b"HTTP/1.1 200")
    started.await_state("inactive")
    assert started.machine.show(SERVICE, "Result") == "success"
    with pytest.raises(ConnectionRefusedError):
        started.connect()


def test_a_setting_that_cannot_be_used_is_not_tried_again_and_again(service: Service) -> None:
    service.machine.write("/etc/agentd/environment", "AGENTD_LISTEN=nowhere\n")
    with pytest.raises(AssertionError, match="listen: nowhere"):
        service.start()
    service.await_state("failed")
    assert service.machine.show(SERVICE, "ExecMainStatus") == EX_CONFIG
    assert service.machine.show(SERVICE, "NRestarts") == "0"


def test_a_client_that_waits_for_a_service_that_cannot_start_is_told_in_the_end(service: Service) -> None:
    service.machine.write("/etc/agentd/environment", "AGENTD_LISTEN=nowhere\n")
    service.drop_in("quick", "[Socket]", "TriggerLimitBurst=3", unit=SOCKET)
    service.machine.run("systemctl", "start", SOCKET)
    with service.connect() as waiting, pytest.raises(ConnectionResetError):
        waiting.recv(1)
    assert service.machine.show(SOCKET, "Result") == "trigger-limit-hit"


def test_the_units_are_without_fault_and_as_tight_as_they_can_be(service: Service) -> None:
    run = service.machine.run
    for name in ("listen", "workspace", "token", "cgroups"):
        service.activate(name, SOCKET if name == "listen" else SERVICE)
    assert run("systemd-analyze", "verify", "--recursive-errors=yes", SERVICE, SOCKET) == ""
    run("systemd-analyze", "security", f"--threshold={EXPOSED}", SERVICE)
    service.activate("confined")
    assert run("systemd-analyze", "verify", "--recursive-errors=yes", SERVICE, SOCKET) == ""
    run("systemd-analyze", "security", f"--threshold={CONFINED}", SERVICE)


def test_one_user_can_be_confined_and_still_works(service: Service) -> None:
    service.confine()
    service.start()
    shell = Shell(service)
    found = shell.run(
        "id -un; echo here >/workspace/file; cat /workspace/file; touch /etc/x; grep NoNewPrivs /proc/self/status"
    )
    assert found["stdout"].split() == ["sandbox", "here", "NoNewPrivs:", "1"]
    assert "Read-only file system" in found["stderr"]


def test_an_example_has_other_addresses(service: Service) -> None:
    service.activate("listen", SOCKET)
    service.machine.run("sed", "-i", f"s/8811/{service.port}/", f"{UNITS}/{SOCKET}.d/listen.conf")
    service.machine.run("systemctl", "daemon-reload")
    service.start()
    assert service.machine.show(SERVICE, "StatusText") == f"serving on http://0.0.0.0:{service.port} unix:{UNIX}"
    assert service.machine.path(UNIX).stat().st_mode & 0o777 == 0o660


def test_user_and_directories_are_made_offline_too(tmp_path: Path, needs: Callable[..., None]) -> None:
    needs("systemd-sysusers", "systemd-tmpfiles")
    assert main(["systemd", "--output", str(tmp_path), "--user", "alice", "--workspace", "/srv/work"]) == 0
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True)
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create"], check=True)
    (line,) = (line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("alice:"))
    assert line.endswith(":/home/alice:/bin/bash")
    uid = int(line.split(":")[2])
    places = [(tmp_path / name).stat() for name in ("srv/work", "home/alice")]
    assert [(place.st_uid, place.st_mode & 0o777) for place in places] == [(uid, 0o755), (uid, 0o750)]


def test_each_process_has_a_cgroup_where_that_is_delegated(service: Service) -> None:
    service.activate("cgroups")
    service.start()
    service.machine.run("systemctl", "restart", SERVICE)
    assert Shell(service).run("cat /proc/self/cgroup")["stdout"].count(f"/{SERVICE}/run-") == 1
    assert service.call("GET", "/v1/capabilities").json()["cgroup"]
