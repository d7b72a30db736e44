"""Comparisons of what reads many entries, against the least that could do it."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.measure import Sample, in_turn, median, peak_bytes, ratio, resident_bytes, sample
from tests.bench.rows import Bench, Line, MiB, cpu, wall
from tests.bench.servers import Agentd

DIRECTORIES = 100
LINKS = 50_000  # names of one file; ext4 takes 65,000
FILE = b"def name(argument):\n    return 'some text of a usual length'\n" * 40


def spread(top: Path, count: int, directories: int = 1) -> None:
    """So many empty files in all, most of them names of the same."""
    for number in range(directories):
        (top / f"dir-{number:05}").mkdir(parents=True)
    for number in range(count):
        here = f"{top}/dir-{number % directories:05}"
        if number % LINKS == 0:
            first = f"{here}/file-{number:07}"
            Path(first).touch()
        else:
            os.link(first, f"{here}/file-{number:07}")


def get(port: int, path: str) -> tuple[float, float]:
    """Seconds to the first byte of the body, and to the last; what comes is dropped."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read(1)
    first = time.perf_counter() - began
    while answer.read(MiB):
        pass
    connection.close()
    assert answer.status == 200
    return first, time.perf_counter() - began


def bare(top: Path) -> None:
    """What a listing cannot do without."""
    pending = [str(top)]
    while pending:
        for entry in os.scandir(pending.pop()):
            os.stat(entry.path)
            if entry.is_dir():
                pending.append(entry.path)


def listing(bench: Bench) -> Iterator[Line]:
    daemon = bench.daemon()
    count = bench.sizes.entries
    for what, directories in (("a directory", 1), (f"a tree of {DIRECTORIES} directories", DIRECTORIES)):
        place = f"workspace/listing-{directories}"
        spread(daemon.root / place, count, directories)
        path = f"/v1/files?depth=9&path=/{place}"
        acts = (
            lambda path=path: sample(daemon.pid, lambda: get(daemon.port, path)),
            lambda place=place: sample(os.getpid(), lambda: bare(daemon.root / place)),
        )
        ours, theirs = in_turn(bench.sizes.rounds, *acts)
        each = _microseconds(count)
        name = f"CPU of listing {what} with {count} files, against os.scandir and os.stat in a bare loop"
        yield Line("10", name, "2.0", each(ours), each(theirs), ratio(ours, theirs, cpu))
        firsts = sorted(get(daemon.port, path)[0] for _ in range(bench.sizes.rounds))
        yield Line("10", "time to its first byte", "50 ms", f"{firsts[len(firsts) // 2] * 1e3:.1f} ms")


def _microseconds(count: int) -> Callable[[list[Sample]], str]:
    return lambda samples: f"{median(samples, cpu) / count * 1e6:.1f} µs each"


def search(bench: Bench) -> Iterator[Line]:
    daemon = bench.daemon()
    top = daemon.root / "workspace/search"
    for number in range(bench.sizes.entries // 10):
        here = top / f"dir-{number % DIRECTORIES:05}"
        here.mkdir(parents=True, exist_ok=True)
        (here / f"file-{number}").write_bytes(FILE)
    (top / "last").write_text("a needle\n")
    for what, pattern in (("a text", "a needle"), ("an expression", "^a (needle|pin)$")):
        acts = (
            lambda pattern=pattern: sample(daemon.pid, lambda: _find(daemon, pattern)),
            lambda pattern=pattern: sample(os.getpid(), lambda: _grep(top, pattern)),
        )
        ours, theirs = in_turn(bench.sizes.rounds, *acts)
        name = f"time to find {what} in {bench.sizes.entries // 10} files of {len(FILE)} bytes, against grep -rE"
        seconds = [f"{median(samples, wall) * 1e3:.0f} ms" for samples in (ours, theirs)]
        yield Line("11", name, "3", *seconds, ratio(ours, theirs, wall))


def _find(daemon: Agentd, pattern: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    connection.request("POST", "/v1/files/find", json.dumps({"path": "/workspace/search", "pattern": pattern}))
    assert len(json.loads(connection.getresponse().read())) == 1
    connection.close()


def _grep(top: Path, pattern: str) -> None:
    found = subprocess.run(["grep", "-rnE", pattern, str(top)], capture_output=True, check=True).stdout
    assert found.count(b"\n") == 1


def memory(bench: Bench) -> Iterator[Line]:
    daemon = Agentd(bench.home / "memory")
    try:
        count = bench.sizes.many_entries
        for what, directories in (("a directory", 1), (f"a tree of {DIRECTORIES} directories", DIRECTORIES)):
            place = f"workspace/memory-{directories}"
            spread(daemon.root / place, count, directories)
            for route in ("files", "entries"):
                get(daemon.port, f"/v1/{route}?path=/workspace")
                Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5): the peak begins anew
                idle = resident_bytes(daemon.pid)
                get(daemon.port, f"/v1/{route}?depth=9&limit=10000&path=/{place}")
                over = peak_bytes(daemon.pid) - idle
                name = f"peak resident memory over idle, {route} of {what} with {count} files"
                yield Line("12", name, "32 MiB", f"{over / MiB:.0f} MiB")
    finally:
        daemon.close()


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {"10": listing, "11": search, "12": memory}
