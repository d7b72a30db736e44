"""What terminals and shell sessions cost, against the same without a daemon."""

import asyncio
import base64
import os
import pty
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.bench.measure import Sample, median, ratio
from tests.bench.rows import Bench, Line
from tests.bench.sending import Connection

KEY = b"x"
ECHO = "stty raw -echo; printf r; exec cat"  # it says when it is ready
COUNTED = 10  # of what is done in one sample


@dataclass(frozen=True)
class Shells:
    """times: samples of each. Every one is the mean of `COUNTED` round trips, in seconds."""

    times: int

    def sampled(self, act: Callable[[], object]) -> list[Sample]:
        found = []
        for _ in range(self.times):
            began = time.perf_counter()
            for _ in range(COUNTED):
                act()
            found.append(Sample((time.perf_counter() - began) / COUNTED, 0, 0))
        return found


def _line(what: str, ours: list[Sample], against: list[Sample]) -> Line:
    def text(samples: list[Sample]) -> str:
        return f"{median(samples, lambda sample: sample.wall) * 1e3:.2f} ms"

    return Line("shells", what, "", text(ours), text(against), ratio(ours, against, lambda sample: sample.wall))


def echo(bench: Bench) -> Iterator[Line]:
    """A key that is typed until it is seen: over the socket, and at a terminal that this process holds."""
    shells = Shells(20 * bench.sizes.rounds)
    ours, floor = pty.openpty()
    with subprocess.Popen(["sh", "-c", ECHO], stdin=floor, stdout=floor) as cat:
        os.read(ours, 1)
        bare = shells.sampled(lambda: (os.write(ours, KEY), os.read(ours, 1)))
        cat.kill()
    os.close(ours)
    os.close(floor)
    samples = asyncio.run(_over_the_socket(bench, shells))
    yield _line("a key typed at a terminal until it is seen, against a terminal without a daemon", samples, bare)


async def _over_the_socket(bench: Bench, shells: Shells) -> list[Sample]:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{bench.daemon().port}") as session,
        session.ws_connect("/v1/ws?channel=pty") as socket,
    ):
        await socket.send_json({"type": "pty_start", "id": "x", "command": ECHO})
        ident = (await socket.receive_json())["session_id"]
        key = {"type": "pty_input", "id": "x", "session_id": ident, "data_base64": base64.b64encode(KEY).decode()}

        async def round_trip() -> Any:
            await socket.send_json(key)
            return await socket.receive_json()

        await socket.receive_json()
        found = [await _timed(round_trip) for _ in range(shells.times)]
        await socket.send_json({"type": "pty_kill", "id": "x", "session_id": ident})
        await socket.receive_json()
    return found


async def _timed(act: Callable[[], Awaitable[object]]) -> Sample:
    began = time.perf_counter()
    for _ in range(COUNTED):
        await act()
    return Sample((time.perf_counter() - began) / COUNTED, 0, 0)


def commands(bench: Bench) -> Iterator[Line]:
    """A builtin in a session, and the start of a shell for it."""
    shells = Shells(5 * bench.sizes.rounds)
    with Connection(bench.daemon().port) as connection:
        ident = connection.call("POST", "/v1/sessions", {})["session_id"]
        command = {"command": "true"}
        ours = shells.sampled(lambda: connection.call("POST", f"/v1/sessions/{ident}/exec", command))
        bare = shells.sampled(lambda: subprocess.run(["bash", "-c", "true"], check=True, capture_output=True))
    yield _line("a command of a session, against starting a bash for it", ours, bare)


def shells(bench: Bench) -> Iterator[Line]:
    yield from echo(bench)
    yield from commands(bench)


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {"shells": shells}
