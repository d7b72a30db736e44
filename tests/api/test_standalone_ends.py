"""What of a handle is open when it is stopped or deleted: sockets, streams, and what was signed for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentd.linux.threads import in_thread
from tests.alone import FLAGS, Machine, sandbox
from tests.conftest import ANSWER_SECONDS, Daemon, StartDaemon
from tests.process.harness.waiting import eventually

ENDS = {"stopped": ("POST", "/hibernate"), "deleted": ("DELETE", "")}
RESTART, GOING_AWAY = 1012, 1001


@asynccontextmanager
async def connected(daemon: Daemon, path: str, *, token: bool = True) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {daemon.token}"} if token else {}
    async with aiohttp.ClientSession(daemon.url, headers=headers) as session, session.ws_connect(path) as socket:
        yield socket


async def heard(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """All frames until it is closed, and the code."""
    frames = []
    async with asyncio.timeout(ANSWER_SECONDS):
        async for message in socket:
            frames.append(json.loads(message.data))
    return [*frames, socket.close_code]


async def act(machine: Machine, end: str) -> None:
    assert (await in_thread(machine, *ENDS[end])).status == 200


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("channel", "code"), [("exec", RESTART), ("pty", RESTART), ("", GOING_AWAY)])
async def test_a_socket_that_says_nothing_is_closed_with_its_handle(
    alone: Daemon, end: str, channel: str, code: int
) -> None:
    machine, other = Machine(alone), Machine(alone)
    async with (
        connected(alone, f"/v1/machines/{other.id}/ws?channel={channel}") as spared,
        connected(alone, f"/v1/sandboxes/{machine.id}/ws?channel={channel}") as socket,
    ):
        await act(machine, end)
        assert await heard(socket) == [code]
        await spared.send_str("{")
        assert "invalid message" in (await spared.receive(ANSWER_SECONDS)).data


@pytest.mark.parametrize("end", ENDS)
async def test_who_sits_at_a_terminal_is_told_its_end_before_the_socket_s(alone: Daemon, end: str) -> None:
    machine = Machine(alone)
    async with connected(alone, f"/v1/machines/{machine.id}/ws?channel=pty") as socket:
        await socket.send_json(
            {"type": "pty_start", "id": "one", "command": "trap '' TERM HUP; while :; do sleep 1; done"}
        )
        assert json.loads((await socket.receive(ANSWER_SECONDS)).data)["type"] == "pty_started"
        await act(machine, end)
        *_, exited, code = await heard(socket)
        assert (exited["type"], exited["exit_code"], code) == ("pty_exited", 137, RESTART)


@pytest.mark.parametrize("end", ENDS)
async def test_a_command_s_end_is_told_before_the_socket_s(alone: Daemon, end: str) -> None:
    machine = Machine(alone)
    async with connected(alone, f"/v1/machines/{machine.id}/ws?channel=exec") as socket:
        await socket.send_json({"type": "exec_start", "id": "one", "command": "sleep", "args": ["600"]})
        assert json.loads((await socket.receive(ANSWER_SECONDS)).data)["type"] == "exec_started"
        await act(machine, end)
        *_, exited, code = await heard(socket)
        assert (exited["type"], exited["signal"], code) == ("exec_exit", "SIGTERM", RESTART)


async def test_a_terminal_of_daytona_is_closed_with_its_sandbox(alone: Daemon) -> None:
    ident = sandbox(alone)["id"]
    async with connected(alone, f"/daytona/toolbox/{ident}/process/pty/create-connect") as socket:
        assert json.loads((await socket.receive(ANSWER_SECONDS)).data)["status"] == "connected"
        assert (await in_thread(alone.call, "DELETE", f"/daytona/api/sandbox/{ident}")).status == 200
        while (message := await socket.receive(ANSWER_SECONDS)).type is aiohttp.WSMsgType.BINARY:
            pass
        assert message.type is aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize("end", ENDS)
async def test_a_watch_ends_with_its_handle_and_says_why(alone: Daemon, end: str) -> None:
    machine = Machine(alone)
    head = {"Authorization": f"Bearer {alone.token}"}
    async with (
        aiohttp.ClientSession(alone.url, headers=head) as session,
        session.get(f"/v1/machines/{machine.id}/watch?path=.") as answer,
        connected(alone, f"/v1/machines/{machine.id}/ws") as socket,
    ):
        await socket.send_json({"type": "file_watch", "path": ".", "id": "w"})
        assert json.loads((await socket.receive(ANSWER_SECONDS)).data)["type"] == "file_watch_started"
        await act(machine, end)
        async with asyncio.timeout(ANSWER_SECONDS):
            assert json.loads((await answer.read()).splitlines()[-1])["reason"] == "stopped"
        assert [(frame["type"], frame["code"]) for frame in (await heard(socket))[:-1]] == [("error", "stopped")]


async def test_the_daemon_s_end_is_told_as_such(start_daemon: StartDaemon) -> None:
    machine = Machine(start_daemon(*FLAGS))
    async with (
        connected(machine.daemon, f"/v1/machines/{machine.id}/ws") as watching,
        connected(machine.daemon, f"/v1/machines/{machine.id}/ws?channel=exec") as idle,
    ):
        await watching.send_json({"type": "file_watch", "path": ".", "id": "w"})
        assert json.loads((await watching.receive(ANSWER_SECONDS)).data)["type"] == "file_watch_started"
        machine.daemon.signal(15)
        assert [(await heard(watching))[0]["code"], *await heard(idle)] == ["draining", RESTART]
    assert machine.daemon.wait() == 0


def test_a_call_whose_body_comes_after_the_end_of_its_machine_is_not_found(alone: Daemon) -> None:
    machine = Machine(alone)
    with alone.connect() as connection:
        head = f"POST /v1/machines/{machine.id}/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alone.token}"
        connection.sendall(f"{head}\r\nContent-Length: 18\r\nExpect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        machine("DELETE")
        connection.sendall(b'{"command":"true"}')
        answer = connection.recv(65536)
    assert (answer[9:12], b'"machine_not_found"' in answer) == (b"404", True)


def kept(daemon: Daemon) -> int:
    """Files of output that memory is too small for; one may be that of the last command."""
    daemon.call("GET", "/livez")
    count = 0
    for fd in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += "(deleted)" in str(fd.readlink())
    return count


def test_what_its_commands_have_written_goes_with_it_at_once(alone: Daemon) -> None:
    machine = Machine(alone)
    for _ in range(4):
        machine.begin("yes")
    assert eventually(lambda: kept(alone) >= 4)
    machine("DELETE")
    assert eventually(lambda: kept(alone) <= 1)


def test_what_a_command_that_took_too_long_has_written_goes_with_it_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--processes-keep-finished", "0", "--processes-grace", "0.3")
    for _ in range(4):
        assert daemon.call("POST", "/v1/exec", {"command": "yes", "timeout_secs": 0.3}).status == 504
    assert eventually(lambda: kept(daemon) <= 1)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_that_is_followed_leaves_nothing_of_it(alone: Daemon, leaves: bool) -> None:
    machine, head = Machine(alone), {"Authorization": f"Bearer {alone.token}"}
    async with aiohttp.ClientSession(f"{alone.url}/v1/machines/{machine.id}/", headers=head) as session:
        answers = [await session.post("exec/stream", json={"command": "yes"}) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read(answer)) for answer in answers]
            assert await in_thread(eventually, lambda: kept(alone) >= 4)
            if leaves:
                [reader.cancel() for reader in readers]
            else:
                await act(machine, "deleted")
    await in_thread(machine, *ENDS["deleted"])
    assert await in_thread(eventually, lambda: kept(alone) <= 1)


async def read(answer: aiohttp.ClientResponse) -> None:
    """Until it ends, or is cut."""
    async with answer:
        with suppress(aiohttp.ClientPayloadError):
            async for _ in answer.content.iter_any():
                pass


async def status_of(daemon: Daemon, path: str) -> int:
    """What a socket without the daemon's token is answered with."""
    try:
        async with connected(daemon, path, token=False):
            return 101
    except aiohttp.WSServerHandshakeError as refusal:
        return refusal.status


async def test_a_ticket_opens_the_channel_of_its_handle_and_of_no_other(alone: Daemon) -> None:
    one, two = Machine(alone), Machine(alone)
    ticket = one("POST", "/ws-ticket", {"channel": "pty"}).json()["token"]
    ours = alone.call("POST", "/v1/ws-ticket", {"channel": "pty"}).json()["token"]
    query = "ws?channel=pty&file_token="
    places = (f"/v1/machines/{one.id}", f"/v1/sandboxes/{one.id}", f"/v1/machines/{two.id}", "/v1")
    assert [await status_of(alone, f"{place}/{query}{ticket}") for place in places] == [101, 101, 403, 403]
    assert [await status_of(alone, f"{place}/{query}{ours}") for place in places] == [403, 403, 403, 101]


def test_a_signed_url_is_good_for_the_handle_that_it_was_made_for(alone: Daemon) -> None:
    one, two = Machine(alone), Machine(alone)
    url = one("POST", "/files/upload-url", {"path": "/workspace/signed"}).json()["url"].removeprefix(alone.url)
    assert alone.call("PUT", url.replace(one.id, two.id), b"text", token=None).status == 403
    assert alone.call("PUT", url, b"text", token=None).status < 300
