"""The daemon where system calls that it makes use of are missing: it serves, and what cannot be done it says."""

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.oldkernel import NUMBERS, without
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive, with_bob
from tests.terminals import screen
from tests.uploading import Client, content_of, tar_of

FEATURES = {
    "openat2": "openat2",
    "pidfd_open": "pidfd",
    "memfd_create": "memfd",
    "copy_file_range": "copy_file_range",
    "renameat2": "rename_exchange",
    "fallocate": "fallocate",
    "sync_file_range": "sync_file_range",
}
REFUSED: dict[str, list[tuple[str, str, dict[str, str] | None]]] = {
    "memfd_create": [
        ("POST", "/v1/sessions", {}),
        ("POST", "/v1/code/execute", {"code": "echo 1", "language": "sh"}),
    ],
    "inotify_init1": [("GET", "/v1/watch?path=/workspace", None)],
}
GVISOR = ("copy_file_range", "openat2", "pidfd_open", "pidfd_send_signal", "RLIMIT_LOCKS")

pytestmark = pytest.mark.timeout(120 * UNIT)


class Lack(NamedTuple):
    """What is missing, and how the kernel says so."""

    calls: tuple[str, ...]
    code: int


CASES = [
    pytest.param(Lack(GVISOR, errno.ENOSYS), id="gvisor-2025"),
    pytest.param(Lack(tuple(NUMBERS), errno.ENOSYS), id="all-ENOSYS"),
    pytest.param(Lack(tuple(NUMBERS), errno.EPERM), id="all-EPERM"),
    *(pytest.param(Lack((call,), errno.EPERM), id=call, marks=pytest.mark.exhaustive) for call in NUMBERS),
]


@pytest.fixture(scope="module", params=CASES)
def lack(request: pytest.FixtureRequest) -> Lack:
    found: Lack = request.param
    return found


@pytest.fixture(scope="module")
def daemon(lack: Lack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = without(lack.calls, lambda: with_bob(tmp_path_factory.mktemp("lack")), lack.code)
    yield made
    assert made.term() == 0


def test_it_is_ready_and_says_what_is_missing(daemon: Daemon, lack: Lack) -> None:
    assert daemon.call("GET", "/readyz").status == 200
    features = daemon.call("GET", "/v1/capabilities").json()["features"]
    missing = {FEATURES[call] for call in lack.calls if call in FEATURES}
    missing |= {"rename_noreplace"} if "renameat2" in lack.calls else set()
    assert {name for name, works in features.items() if not works} == missing


def test_an_upload_goes_on_after_the_daemon_was_killed(daemon: Daemon, lack: Lack) -> None:
    client, content = Client(daemon), content_of(17 << 20)
    session = client.begin("/workspace/resumed", len(content))
    client.send(session, content, [1])
    daemon.kill9()
    without(lack.calls, daemon.restart, lack.code)
    assert client.status(session)["accepted_bytes"] == session["part_size"]
    client.send(session, content, [0, 2])
    assert client.complete(session).status == 200
    assert (daemon.root / "workspace/resumed").read_bytes() == content


def test_a_tree_takes_the_place_of_another(daemon: Daemon) -> None:
    client, place = Client(daemon), daemon.root / "workspace"
    for name in ("old", "new"):
        assert client.put_tar("tree", tar_of({name: b"1"}), conflict="replace").status == 200
        (place / name).mkdir()
        (place / name / name).touch()
    assert [entry.name for entry in (place / "tree").iterdir()] == ["new"]
    asked = {"source": "/workspace/new", "target": "/workspace/old", "conflict": "replace"}
    assert daemon.call("POST", "/v1/files/move", asked).status == 200
    assert [entry.name for entry in (place / "old").iterdir()] == ["new"]


def test_nothing_is_replaced_that_must_not_be(daemon: Daemon) -> None:
    taken = daemon.root / "workspace/taken"
    for name in ("taken", "other"):
        assert daemon.call("PUT", f"/v1/file?path=/workspace/{name}", name.encode()).status in (200, 201, 204)
    asked = {"source": "/workspace/other", "target": "/workspace/taken", "conflict": "error"}
    assert daemon.call("POST", "/v1/files/move", asked).status == 409
    assert Client(daemon).create("/workspace/taken", 1, conflict="error").status == 409
    assert taken.read_bytes() == b"taken"


def test_the_reserved_tree_stays_out_of_reach(daemon: Daemon) -> None:
    Shell(daemon).run("ln -sfn .nullspace l; ln -sfn .. up; echo in > real; ln -sfn real fine", cwd="/workspace")
    for path in ("/workspace/.nullspace/token", "/workspace/l/token", "/workspace/up/workspace/l/token"):
        assert daemon.call("POST", "/v1/files/read", {"path": path}).status == 403
    assert daemon.call("POST", "/v1/files/read", {"path": "/workspace/fine"}).json()["content"] == "in\n"


def test_how_commands_ended_is_told_of_each(daemon: Daemon) -> None:
    shell = Shell(daemon)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda number: shell.run(f"echo {number}; exit {number}"), range(24)))
    assert [(one["stdout"], one["exit_code"]) for one in told] == [(f"{n}\n", n) for n in range(24)]
    assert shell.run("id -u", user="bob")["stdout"] == "40001\n"


def test_a_timeout_reaches_every_descendant(daemon: Daemon) -> None:
    script = "setsid sleep 987 & (setsid sh -c 'setsid sleep 987 &' &); sleep 987"
    answer = Shell(daemon).exec(script, shell=True, timeout_secs=0.5)
    assert answer.status == 504
    assert eventually(lambda: alive(daemon.root) == [])


def test_what_heeds_sigterm_is_given_its_grace(daemon: Daemon) -> None:
    shell = Shell(daemon)
    pid = shell.begin("trap 'sleep 0.02; echo ended; exit 5' TERM; echo begun; while :; do sleep 0.01; done")
    assert eventually(lambda: "begun" in shell.logs(pid)["stdout"])
    assert shell.call("POST", f"/processes/{pid}/kill", {"grace_secs": 10}).status in (200, 202, 204)
    assert shell.wait(pid)["exit_code"] == 5
    assert shell.logs(pid)["stdout"] == "begun\nended\n"


async def test_a_terminal_is_opened_and_ends(daemon: Daemon) -> None:
    async with screen(daemon) as one:
        assert (await one.open(command="echo $((6 * 7)); tty; exit 7"))["type"] == "pty_started"
        assert (await one.last())["exit_code"] == 7
        assert "42\r\n/dev/pts/" in one.text


def test_what_cannot_be_done_is_refused(daemon: Daemon, lack: Lack) -> None:
    for method, path, asked in (one for call in lack.calls for one in REFUSED.get(call, ())):
        answer = daemon.call(method, path, asked)
        assert (answer.status, answer.json()["code"]) == (501, "not_implemented"), path
        assert "seccomp" in answer.json()["error"]


def test_the_doctor_finds_what_is_missing(daemon: Daemon, lack: Lack) -> None:
    command = f"{sys.executable} -m agentd doctor --json --root {daemon.root} --listen 127.0.0.1:0".split()
    done = without(lack.calls, lambda: subprocess.run(command, capture_output=True, text=True), lack.code)
    findings = json.loads(done.stdout)["findings"]
    said = " ".join(one["what"] for one in findings if one["level"] == "degraded")
    assert not [one for one in findings if one["level"] == "broken"]
    for feature in (FEATURES[call] for call in lack.calls if call in FEATURES):
        assert f"no {feature}:" in said
