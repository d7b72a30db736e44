"""What it costs to run a command over HTTP and to follow what it writes, against the same without a daemon."""

import asyncio
import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial

import aiohttp

from tests.bench.measure import Ratio, Sample, in_turn, median, ratio, resident_bytes
from tests.bench.rows import Bench, Line, MiB, wall
from tests.bench.sending import Connection
from tests.bench.servers import Agentd

TRUE = "/bin/true"
COUNTED = 10  # round trips in one sample, which is their mean
AT_ONCE = 64
TERMINALS = 16
GROWN_SECONDS = 120.0
TEXT = "yes 'a line of text of a usual length, as compilers write it' | head -c {}"
TAKEN = 1 << 20


def _timed(act: Callable[[], object], count: int = 1) -> Sample:
    began = time.perf_counter()
    for _ in range(count):
        act()
    return Sample((time.perf_counter() - began) / count, 0, 0)


def _line(what: str, goal: str, ours: list[Sample], against: list[Sample], found: Ratio | None = None) -> Line:
    def text(samples: list[Sample]) -> str:
        return f"{median(samples, wall) * 1e3:.2f} ms"

    return Line("processes", what, goal, text(ours), text(against), found or ratio(ours, against, wall))


def _execute(connection: Connection, user: str | None = None) -> None:
    ran = connection.call("POST", "/v1/exec", {"command": TRUE, "user": user})
    assert ran["exit_code"] == 0


def _bare() -> None:
    subprocess.run([TRUE], check=True, capture_output=True)


def round_trips(bench: Bench) -> Iterator[Line]:
    bench.home.chmod(0o711)
    rounds = 5 * bench.sizes.rounds
    small = bench.daemon()
    with closing(Agentd(bench.home / "grown", "--terminals-scrollback-bytes", str(_share(bench)))) as large:
        asyncio.run(_grow(large, bench.sizes.whole // 2, _share(bench)))
        with Connection(small.port) as one, Connection(large.port) as other:
            acts = [_bare, partial(_execute, one), partial(_execute, other)]
            if os.geteuid() == 0:
                acts.append(partial(_execute, one, "nobody"))
            bare, ours, grown, *user = in_turn(rounds, *(partial(_timed, act, COUNTED) for act in acts))
            size = f"{resident_bytes(large.pid) // MiB} MiB in memory"
    more = (median(ours, wall) - median(bare, wall)) * 1e3
    yield _line(f"{TRUE} over HTTP, against subprocess.run: {more:.2f} ms more (goal 2.5)", "3", ours, bare)
    for samples in user:
        yield _line("the same as another user, against the daemon's own", "1.3", samples, ours)
    yield _line(f"the same of a daemon with {size}, against {resident_bytes(small.pid) // MiB} MiB", "1.5", grown, ours)


def _share(bench: Bench) -> int:
    """Bytes that each terminal keeps, so that all of them are half of `Sizes.whole`."""
    return max(bench.sizes.whole // 2 // TERMINALS, 4096)


async def _grow(daemon: Agentd, size: int, each: int) -> None:
    """By what terminals have shown, which the daemon keeps."""
    command = f"head -c {each} /dev/zero | tr '\\0' x; sleep 1000"
    async with aiohttp.ClientSession(f"http://127.0.0.1:{daemon.port}") as session:
        for number in range(TERMINALS):
            async with session.ws_connect("/v1/ws?channel=pty") as socket:
                await socket.send_json({"type": "pty_start", "id": str(number), "command": command})
                await socket.receive_json()
        deadline = time.monotonic() + GROWN_SECONDS
        while resident_bytes(daemon.pid) < size and time.monotonic() < deadline:
            await asyncio.sleep(0.1)  # nothing is sent when a process has grown


def at_once(bench: Bench) -> Iterator[Line]:
    port = bench.daemon().port
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(port)) for _ in range(AT_ONCE)]
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))

        def ours() -> None:
            list(pool.map(_execute, connections))

        def bare() -> None:
            list(pool.map(lambda _: _bare(), connections))

        found = in_turn(bench.sizes.rounds, lambda: _timed(ours), lambda: _timed(bare))
    yield _line(f"{AT_ONCE} of them at once, against as many threads with subprocess.run", "", *found)


def streams(bench: Bench) -> Iterator[Line]:
    size = bench.sizes.whole
    port = bench.daemon().port
    command = TEXT.format(size)

    def events() -> None:
        body = {"command": command, "shell": True, "timeout_secs": 0, "paced": True}
        assert _taken(port, "POST", "/v1/exec/stream", body) > size

    def exact() -> None:
        with Connection(port) as connection:
            begun = connection.call("POST", "/v1/exec", {"command": command, "shell": True, "background": True})
        assert _taken(port, "GET", f"/v1/processes/{begun['pid']}/output?follow=true&paced=true") == size

    def bare() -> None:
        subprocess.run(["sh", "-c", f"{command} | cat | cat >/dev/null"], check=True)

    acts = (partial(_timed, act) for act in (events, exact, bare))
    told, raw, piped = in_turn(bench.sizes.rounds, *acts)
    for name, samples in (("as NDJSON", told), ("as bytes", raw)):
        what = f"speed of {size // MiB} MiB of text of a command {name}, against cat | cat"
        yield _line(what, "at least 0.3", samples, piped, ratio(piped, samples, wall))


def _taken(port: int, method: str, path: str, body: object = None) -> int:
    """Bytes of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer, buffer, taken = connection.getresponse(), bytearray(TAKEN), 0
        assert answer.status == 200
        while count := answer.readinto(buffer):
            taken += count
        return taken
    finally:
        connection.close()


def processes(bench: Bench) -> Iterator[Line]:
    yield from round_trips(bench)
    yield from at_once(bench)
    yield from streams(bench)


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {"processes": processes}
