"""What a start costs, against aiohttp's own smallest server: exec to the first 200, memory then, instructions."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Sample, in_turn, median, ratio, resident_bytes, spent
from tests.bench.rows import Bench, Line, MiB, cpu, wall
from tests.conftest import Daemon

PLAIN = """
from aiohttp import web

async def alive(request):
    return web.Response()

app = web.Application()
app.router.add_get("/livez", alive)
web.run_app(app, host="127.0.0.1", port=0, print=lambda text: print(text.split()[3], flush=True))
"""
IMPORT = "from agentd.cli.serve import imported_daemon; imported_daemon()"


def started(bench: Bench) -> tuple[Sample, float]:
    """agentd, to its first 200 and away; and the MiB that it had in memory then."""
    began = time.perf_counter()
    home = Path(tempfile.mkdtemp(dir=bench.home))
    daemon = Daemon(home, home / "log", ("--insecure",), {})
    try:
        return _first_answer(daemon.pid, daemon.port, began)
    finally:
        daemon.kill9()


def plain() -> tuple[Sample, float]:
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", PLAIN], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().strip().rpartition(":")[2])
        try:
            return _first_answer(server.pid, port, began)
        finally:
            server.terminate()


def _first_answer(pid: int, port: int, began: float) -> tuple[Sample, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    taken = Sample(time.perf_counter() - began, *spent(pid))
    connection.close()
    return taken, resident_bytes(pid) / MiB


def instructions() -> float | None:
    """Millions, of an interpreter that imports the daemon; None without valgrind."""
    if (valgrind := shutil.which("valgrind")) is None:
        return None
    with tempfile.NamedTemporaryFile() as counts:
        tool = [valgrind, "--tool=callgrind", f"--callgrind-out-file={counts.name}"]
        fixed = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run([*tool, sys.executable, "-c", IMPORT], capture_output=True, text=True, env=fixed)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1]) / 1e6


def start(bench: Bench) -> Iterator[Line]:
    resident = []

    def ours() -> Sample:
        taken, memory = started(bench)
        resident.append(memory)
        return taken

    one, other = in_turn(bench.sizes.rounds, ours, lambda: plain()[0])
    for what, goal, of in (("CPU", "250 ms", cpu), ("time", "", wall)):
        texts = (f"{median(samples, of) * 1000:.0f} ms" for samples in (one, other))
        yield Line(
            "start", f"exec to the first 200, {what}, against aiohttp alone", goal, *texts, ratio(one, other, of)
        )
    yield Line("start", "resident memory after it", "40 MiB", f"{sorted(resident)[len(resident) // 2]:.1f} MiB")
    if (count := instructions()) is not None:
        yield Line("start", "instructions of the import (callgrind)", "750 M", f"{count:.0f} M")


ROWS = {"start": start}
