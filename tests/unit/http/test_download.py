"""How a file's bytes leave, while the file changes and the client takes its time."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from agentd.http.endpoint import Call, Endpoint, FileResult
from agentd.linux.threads import DISK
from tests.conftest import UNIT

from .conftest import Door, OpenDoor, Peer, until

SIZE = 24 << 20
STALL = 0.6 * UNIT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return path


@pytest.fixture
async def door(open_door: OpenDoor, path: Path, request: pytest.FixtureRequest) -> Door:
    """With a stall timeout of its parameter, or a short one."""

    async def give(_: Call) -> FileResult:
        return FileResult(os.open(path, os.O_RDONLY), SIZE, 0.0, "f", "v1")

    stall = getattr(request, "param", STALL)
    return await open_door(Endpoint("GET", "/give", "give", give), body_stall_timeout=stall)


async def asked(door: Door, *headers: str) -> asyncio.StreamReader:
    """The answer, with its headers taken; nothing more is read than is asked for, but for small buffers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    door.peers.append(Peer(reader, writer))
    await door.peers[-1].send("GET /give", b"", *headers)
    await reader.readuntil(b"\r\n\r\n")
    return reader


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends, in whatever way."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := await reader.read(1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


async def test_all_bytes_come_in_order_again_and_again_on_one_connection(door: Door, path: Path) -> None:
    peer = await door.connect()
    content = path.read_bytes()
    for first in (0, 1, SIZE - 700_000):
        await peer.send("GET /give", b"", f"Range: bytes={first}-")
        status, headers, body = await peer.answer()
        assert (status, body == content[first:]) == (206, True)
        assert headers["content-range"] == f"bytes {first}-{SIZE - 1}/{SIZE}"


async def test_the_bytes_sent_are_counted_as_those_of_any_answer(door: Door) -> None:
    await (await asked(door)).readexactly(SIZE)
    await until(lambda: "agentd_requests_active 0\n" in door.metrics.render())
    counted = next(line for line in door.metrics.render().splitlines() if line.startswith("agentd_bytes_sent_total"))
    assert SIZE < float(counted.split()[1]) < SIZE + 1000


@pytest.mark.parametrize("length", [SIZE - 100, 1_000_001, 0])
async def test_a_file_that_becomes_shorter_cuts_the_connection_and_nothing_is_made_up(
    door: Door, path: Path, length: int
) -> None:
    content = path.read_bytes()
    answer = await asked(door)
    os.truncate(path, length)
    body = await rest(answer)
    assert len(body) < SIZE
    assert content.startswith(body)


async def test_of_a_file_that_grows_comes_what_was_announced(door: Door, path: Path) -> None:
    answer = await asked(door, "Connection: close")
    with path.open("ab") as more:
        more.write(b"more")
    assert len(await rest(answer)) == SIZE


async def test_a_client_that_takes_nothing_is_let_go_after_the_stall_timeout(door: Door) -> None:
    answer = await asked(door)
    await until(lambda: 'code="request_timeout"' in door.metrics.render())
    assert len(await rest(answer)) < SIZE


async def test_a_slow_client_gets_everything_as_long_as_it_takes_something(door: Door) -> None:
    answer = await asked(door)
    for _ in range(5):
        await asyncio.sleep(STALL / 2)
        await answer.readexactly(1 << 20)
    assert len(await answer.readexactly(SIZE - (5 << 20))) > 0


@pytest.mark.parametrize("door", [20 * UNIT], indirect=True)
async def test_clients_that_take_nothing_hold_no_thread(door: Door) -> None:
    slow = [await asked(door) for _ in range(DISK.size + 4)]
    status, _, body = await door.ask("GET /give", b"", "Range: bytes=0-9")
    assert (status, len(body)) == (206, 10)
    assert 'code="request_timeout"' not in door.metrics.render()
    assert len(slow) > DISK.size


async def test_a_client_that_leaves_midway_leaves_nothing_behind(door: Door) -> None:
    await (await asked(door)).readexactly(SIZE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await asked(door)
        door.peers[-1].reset()
    await until(lambda: "agentd_requests_active 0\n" in door.metrics.render())
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_client_that_sends_nothing_more_and_takes_nothing_is_gone_soon(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.http.connection.HALF_OPEN_SECONDS", 0.05)
    await asked(door)
    door.peers[-1].finish()
    await until(lambda: "agentd_connections 0\n" in door.metrics.render())


async def test_an_answer_in_memory_that_nobody_takes_is_given_up_too(open_door: OpenDoor) -> None:
    async def give(_: Call) -> list[str]:
        return ["x" * SIZE]

    door = await open_door(Endpoint("GET", "/give", "give", give), body_stall_timeout=STALL)
    await asked(door)
    await until(lambda: 'code="request_timeout"' in door.metrics.render())
