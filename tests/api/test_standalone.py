"""Stand-alone mode: handles on one machine, each with a directory, variables and processes of its own."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.alone import ASKED, FLAGS, Machine, asked, records, runs, sandbox
from tests.conftest import UNIT, Daemon, StartDaemon
from tests.process.harness.waiting import eventually

NOBODY = "sb_0000000000000000"
SOON_MS = int(1000 * UNIT)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "alone" in request.fixturenames:
        daemon = request.getfixturevalue("alone")
        for one in daemon.call("GET", "/v1/machines").json()["items"]:
            daemon.call("DELETE", f"/v1/machines/{one['id']}")
        assert records(daemon) == []


CREATES = ["/v1/machines", "/v1/sandboxes", "/daytona/api/sandbox", "/duvo/v1/sandboxes"]


@pytest.mark.parametrize("path", CREATES)
def test_behind_a_control_plane_nothing_is_created_and_any_id_is_served(shared: Daemon, path: str) -> None:
    assert shared.call("POST", path, {}).status == 404
    assert [asked(shared, name, NOBODY).status for name in ASKED] == [200] * len(ASKED)


@pytest.mark.parametrize(
    ("path", "status", "ident"),
    [(CREATES[0], 201, "id"), (CREATES[1], 201, "id"), (CREATES[2], 200, "id"), (CREATES[3], 201, "sandbox_id")],
)
def test_what_one_api_creates_is_served_by_all(alone: Daemon, path: str, status: int, ident: str) -> None:
    answer = alone.call("POST", path, {})
    assert answer.status == status
    found = answer.json()[ident]
    assert [asked(alone, name, found).status for name in ASKED] == [200] * len(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_an_unknown_id_is_not_found(alone: Daemon, name: str) -> None:
    assert asked(alone, name, NOBODY).status == 404


@pytest.mark.parametrize("name", ASKED)
def test_a_stopped_one_refuses_its_calls_until_it_is_started(alone: Daemon, name: str) -> None:
    machine = Machine(alone)
    machine("POST", "/hibernate")
    assert asked(alone, name, machine.id).status == 409
    machine("POST", "/resume")
    assert asked(alone, name, machine.id).status == 200


def test_the_machine_itself_is_served_without_an_id_or_by_its_own(alone: Daemon, start_daemon: StartDaemon) -> None:
    assert alone.call("GET", "/v1/processes").status == alone.call("GET", "/daytona/version").status == 200
    named = start_daemon(*FLAGS, "--sandbox-id", "own")
    assert [asked(named, name, "own").status for name in ASKED] == [200] * len(ASKED)
    assert named.call("GET", "/v1/machines/own").status == 404
    assert [asked(named, name, Machine(named).id).status for name in ASKED] == [200] * len(ASKED)


def test_paths_and_commands_are_meant_from_its_directory(alone: Daemon) -> None:
    machine = Machine(alone, cwd="/workspace/new/place", envs={"WHO": "me"})
    assert machine.run("pwd; echo $WHO") == f"{alone.root}/workspace/new/place\nme\n"
    assert machine("POST", "/files/write", {"path": "file", "content": "text"}).status == 200
    assert (alone.root / "workspace/new/place/file").read_text() == "text"
    assert machine("GET", "/files?path=.").json()[0]["path"] == "/workspace/new/place/file"
    assert Machine(alone).run("cat new/place/file") == "text"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"cwd": "/workspace/.nullspace"}, 403),
        ({"cwd": "/etc/passwd/x"}, 409),
        ({"envs": {"a=b": "c"}}, 400),
        ({"envs": {"a": "\0"}}, 400),
        ({"timeout_ms": 0}, 400),
        ({"snapshot_id": "s"}, 501),
        ({"network": {"deny_out": ["0.0.0.0/0"]}}, 501),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(alone: Daemon, body: dict[str, Any], status: int) -> None:
    (alone.root / "etc").mkdir(exist_ok=True)
    (alone.root / "etc/passwd").touch()
    assert alone.call("POST", "/v1/machines", body).status == status
    assert alone.call("GET", "/v1/machines").json()["items"] == []


def test_sessions_terminals_and_contexts_are_its_own(alone: Daemon) -> None:
    one, two = Machine(alone), Machine(alone)
    for machine in (one, two):
        assert machine("POST", "/sessions", {"session_id": "same"}).status == 201
    context = one("POST", "/code/contexts", {"language": "bash"}).json()["id"]
    pid = one.begin("sleep 600")
    assert two("GET", f"/processes/{pid}").status == 404
    assert two("DELETE", f"/code/contexts/{context}").status == 404
    assert one("DELETE", "/sessions/same").status == 204
    assert two("GET", "/sessions/same").status == 200
    assert alone.call("GET", "/v1/sessions").json() == []


def test_a_key_of_one_is_none_of_anothers(alone: Daemon) -> None:
    said = []
    for machine in (Machine(alone), Machine(alone)):
        body = {"command": "echo", "args": [machine.id]}
        key = {"Idempotency-Key": "same"}
        answer = alone.call("POST", f"/v1/machines/{machine.id}/exec", body, key)
        said.append((answer.status, answer.json()["stdout"].strip() == machine.id))
    assert said == [(200, True), (200, True)]


STUBBORN = "trap '' TERM; sh -c 'trap \"\" TERM; setsid sleep 600 & sleep 600' & while :; do sleep 0.05; done"


@pytest.mark.parametrize("end", [("POST", "/hibernate"), ("DELETE", "")])
def test_all_that_it_started_ends_with_it_and_nothing_else(alone: Daemon, end: tuple[str, str]) -> None:
    machine, other = Machine(alone, cwd="/workspace/ends"), Machine(alone)
    pid, spared = machine.begin(STUBBORN), other.begin("sleep 600")
    assert eventually(lambda: len(here(alone, "ends")) >= 4)
    assert machine(*end).status == 200
    assert here(alone, "ends") == []
    assert not runs(pid)
    assert runs(spared)


def here(daemon: Daemon, name: str) -> list[int]:
    """Processes that stand in a directory of the workspace."""
    place, found = str(daemon.root / "workspace" / name), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str((entry / "cwd").readlink()) == place and runs(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_who_waits_for_a_command_learns_that_it_was_ended(alone: Daemon) -> None:
    machine = Machine(alone)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(machine, "POST", "/exec", {"command": "echo before; exec sleep 600", "shell": True})
        assert eventually(lambda: machine("GET", "/processes").json() != [])
        machine("POST", "/hibernate")
        told = waiting.result().json()
    assert (told["stdout"], told["signal"], told["exit_code"]) == ("before\n", "SIGTERM", 143)


def test_who_waits_for_a_command_of_a_session_or_for_code_learns_it_too(alone: Daemon) -> None:
    machine = Machine(alone)
    session = machine("POST", "/sessions", {}).json()["session_id"]
    with ThreadPoolExecutor() as pool:
        command = pool.submit(machine, "POST", f"/sessions/{session}/exec", {"command": "sleep 600"})
        code = pool.submit(machine, "POST", "/code/execute", {"code": "sleep 600", "language": "bash"})
        assert eventually(lambda: len(machine("GET", "/processes").json()) == 2)
        assert machine("DELETE").status == 200
        assert command.result().status == 200
        assert b"InterpreterDied" in code.result().body


def test_a_stop_is_done_whoever_waits_for_it(alone: Daemon) -> None:
    machine = Machine(alone)
    pid = machine.begin("trap '' TERM; while :; do sleep 0.05; done")
    with alone.connect() as connection:
        head = f"POST /v1/machines/{machine.id}/hibernate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alone.token}"
        connection.sendall(f"{head}\r\nContent-Length: 0\r\n\r\n".encode())
        assert eventually(lambda: machine.status == "paused")
    assert eventually(lambda: not runs(pid))


def test_it_can_be_stopped_started_and_deleted_by_many_at_once(alone: Daemon) -> None:
    machine = Machine(alone)
    acts = [("POST", "/hibernate"), ("POST", "/resume")] * 8
    with ThreadPoolExecutor(8) as pool:
        found = {answer.status for answer in pool.map(lambda act: machine(*act), acts)}
    assert found == {200}
    with ThreadPoolExecutor(8) as pool:
        gone = sorted(answer.status for answer in pool.map(lambda _: machine("DELETE"), range(8)))
    assert gone == [200, *[404] * 7]


@pytest.mark.parametrize(("action", "status"), [("destroy", "machine_not_found"), ("hibernate", "paused")])
def test_when_its_time_is_up_it_ends_as_was_said(alone: Daemon, action: str, status: str) -> None:
    machine = Machine(alone, timeout_ms=SOON_MS, timeout_action=action)
    pid = machine.begin("sleep 600")
    assert eventually(lambda: machine.status == status)
    assert eventually(lambda: not runs(pid))


def test_its_time_can_be_made_longer(alone: Daemon) -> None:
    machine = Machine(alone, timeout_ms=SOON_MS)
    told = machine("POST", "/timeout", {"timeout_ms": 600_000}).json()
    assert (told["timeout_ms"], told["timeout_action"]) == (600_000, "destroy")
    threading.Event().wait(1.5 * SOON_MS / 1000)
    assert machine.status == "running"


def test_one_whose_time_is_made_longer_while_it_is_stopped_is_not_deleted(start_daemon: StartDaemon) -> None:
    machine = Machine(start_daemon("--standalone", "--processes-grace", str(2 * UNIT)), timeout_ms=SOON_MS)
    machine.begin("trap '' TERM; while :; do sleep 0.1; done")
    with ThreadPoolExecutor() as pool:
        pool.submit(machine, "POST", "/hibernate")
        assert eventually(lambda: machine("GET", "/processes").status == 409)
        renewed = machine("POST", "/timeout", {"timeout_ms": 600_000})
    assert (renewed.status, machine("POST", "/resume").status) == (200, 200)


def test_without_a_call_it_is_stopped_and_a_call_that_lasts_keeps_it(alone: Daemon) -> None:
    machine = Machine(alone, inactivity_timeout_ms=SOON_MS, timeout_action="hibernate")
    last = {"command": f"sleep {1.5 * SOON_MS / 1000}; echo done", "shell": True}
    assert machine("POST", "/exec", last).json()["stdout"] == "done\n"
    assert b"done" in machine("POST", "/exec/stream", last).body
    assert eventually(lambda: machine.status == "paused")


def test_a_stopped_one_is_kept_as_long_as_was_said(alone: Daemon) -> None:
    machine = Machine(alone, auto_delete_after_ms=SOON_MS)
    machine("POST", "/hibernate")
    assert eventually(lambda: machine.status == "machine_not_found")


def test_there_are_so_many_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--handles-max-open", "2")
    first = Machine(daemon)
    Machine(daemon)
    refused = daemon.call("POST", "/v1/machines", {})
    assert (refused.status, refused.json()["code"]) == (429, "capacity_exceeded")
    first("DELETE")
    Machine(daemon)


def test_the_limit_of_processes_is_that_of_all_together(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--processes-max-running", "2")
    one, two = Machine(daemon), Machine(daemon)
    one.begin("sleep 600")
    two.begin("sleep 600")
    assert two("POST", "/exec", {"command": "true"}).status == 429
    one("DELETE")
    assert two("POST", "/exec", {"command": "true"}).status == 200


def test_a_session_that_is_refused_leaves_no_fds(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--processes-max-running", "1")
    machine, fds = Machine(daemon), Path(f"/proc/{daemon.pid}/fd")
    machine.begin("exec sleep 600")
    before = len([*fds.iterdir()])
    assert {machine("POST", "/sessions", {}).status for _ in range(5)} == {429}
    assert eventually(lambda: len([*fds.iterdir()]) <= before)


def test_a_creation_that_is_repeated_with_its_key_is_the_same(alone: Daemon) -> None:
    key = {"Idempotency-Key": "create"}
    one, again = Machine(alone, key, metadata={"a": 1}), Machine(alone, key, metadata={"a": 1})
    assert one.id == again.id
    assert alone.call("POST", "/v1/machines", {"metadata": {"a": 2}}, key).status == 422


def test_a_creation_whose_client_has_left_is_the_same_when_it_is_repeated(alone: Daemon) -> None:
    head = f"POST /v1/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alone.token}\r\nIdempotency-Key: left"
    for _ in range(20):
        with alone.connect() as connection:
            connection.sendall(f"{head}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    made = Machine(alone, {"Idempotency-Key": "left"})
    assert [one["id"] for one in alone.call("GET", "/v1/machines").json()["items"]] == [made.id]


def test_many_are_created_at_once(alone: Daemon) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda n: Machine(alone, envs={"N": str(n)}), range(32)))
        said = list(pool.map(lambda machine: machine.run("echo $N"), made))
    assert said == [f"{n}\n" for n in range(32)]
    assert len({machine.id for machine in made}) == 32


def test_a_list_is_filtered_paged_and_cut_to_fields(alone: Daemon) -> None:
    found = [Machine(alone, metadata={"n": n, "all": True}, template=f"t{n}") for n in range(3)]
    found[1]("POST", "/hibernate")

    def listed(query: str) -> Any:
        return alone.call("GET", f"/v1/machines?{query}").json()

    assert [one["id"] for one in listed("state=paused")["items"]] == [found[1].id]
    assert [one["id"] for one in listed("metadata=%7B%22n%22:2%7D&template=t2")["items"]] == [found[2].id]
    page = listed("limit=2&fields=id,status")
    assert page["items"] == [{"id": one.id, "status": one.status} for one in found[:2]]
    assert [one["id"] for one in listed(f"next_token={page['next_token']}")["items"]] == [found[2].id]
    assert alone.call("GET", "/v1/machines?metadata=x").status == 400


def test_a_sandbox_of_daytona_is_found_by_its_name_which_is_its_own(alone: Daemon) -> None:
    made = sandbox(alone, name="mine", labels={"a": "b"})
    assert alone.call("GET", "/daytona/api/sandbox/mine").json()["id"] == made["id"]
    assert alone.call("POST", "/daytona/api/sandbox", {"name": "mine"}).status == 409
    assert alone.call("DELETE", "/daytona/api/sandbox/mine").json()["state"] == "destroyed"
    sandbox(alone, name="mine")


def test_daytona_is_told_by_text_what_another_api_has_noted(alone: Daemon) -> None:
    machine = Machine(alone, metadata={"a": {"b": 1}, "c": "d"})
    found = alone.call("GET", f"/daytona/api/sandbox/{machine.id}").json()
    assert found["labels"] == {"a": '{"b":1}', "c": "d"}
    assert found["toolboxProxyUrl"] == f"{alone.url}/daytona/toolbox"


def test_a_stop_by_force_does_not_wait(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--standalone", "--processes-grace", str(600 * UNIT))
    made = sandbox(daemon)
    begun = {"sessionId": "s"}
    daemon.call("POST", f"/daytona/toolbox/{made['id']}/process/session", begun)
    body = {"command": "trap '' TERM; while :; do sleep 0.05; done", "runAsync": True}
    assert daemon.call("POST", f"/daytona/toolbox/{made['id']}/process/session/s/exec", body).status == 202
    assert daemon.call("POST", f"/daytona/api/sandbox/{made['id']}/stop?force=true").json()["state"] == "stopped"


def test_a_sandbox_of_duvo_says_when_it_ends_and_does(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--handles-lifetime", str(SOON_MS / 1000))
    answer = daemon.call("POST", "/duvo/v1/sandboxes")
    assert (answer.status, sorted(answer.json())) == (201, ["expires_at", "sandbox_id"])
    ident = answer.json()["sandbox_id"]
    assert eventually(lambda: asked(daemon, "duvo", ident).status == 404)


def test_daytona_at_the_root_is_driven_from_there(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--dialect-at-root", "daytona")
    made = daemon.call("POST", "/api/sandbox", {}).json()
    assert made["toolboxProxyUrl"] == f"{daemon.url}/toolbox"
    ran = daemon.call("POST", f"/toolbox/{made['id']}/process/execute", {"command": "echo hi"})
    assert ran.json()["result"] == "hi\n"
    assert daemon.call("GET", f"/daytona/api/sandbox/{made['id']}").status == 200


def test_duvo_at_the_root_leaves_the_native_machines_where_they_are(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--dialect-at-root", "duvo")
    made = daemon.call("POST", "/v1/sandboxes").json()
    assert daemon.call("GET", f"/v1/sandboxes/{made['sandbox_id']}/files").json() == {"files": []}
    assert Machine(daemon).status == "running"


def test_the_command_beside_the_daemon_is_a_session_of_daytona(start_daemon: StartDaemon, alone: Daemon) -> None:
    daemon = start_daemon("--", "sleep", "600")
    told = daemon.call("GET", "/daytona/process/session/entrypoint").json()
    assert told == {"sessionId": "entrypoint", "commands": [{"id": "entrypoint", "command": "sleep 600"}]}
    assert daemon.call("GET", "/daytona/process/session").json() == []
    logs = daemon.call("GET", "/daytona/process/session/entrypoint/logs")
    assert (logs.status, "standard streams" in logs.json()["message"]) == (404, True)
    assert alone.call("GET", "/daytona/process/session/entrypoint").status == 404
