"""The comparisons. Each row is a function of `Bench` that gives lines of the table."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.measure import Ratio, Sample, in_turn, median, ratio, sample, share
from tests.bench.sending import Connection, Source, send
from tests.bench.servers import Agentd, Bare, GiB, Nginx, nginx_path

MiB = 1 << 20

Samples = list[Sample]
Of = Callable[[Sample], float]


@dataclass(frozen=True)
class Sizes:
    """Bytes; rounds: that count. entries, many_entries: of a directory or a tree. files: small ones."""

    whole: int = GiB
    part: int = 8 * MiB
    large_part: int = 16 * MiB
    replaced: int = 512 * MiB
    small: int = MiB
    sparse: int = 100 * GiB
    rounds: int = 7
    entries: int = 100_000
    many_entries: int = 1_000_000
    files: int = 1000


QUICK = Sizes(
    whole=16 * MiB,
    part=MiB,
    large_part=2 * MiB,
    replaced=4 * MiB,
    small=65536,
    sparse=GiB,
    rounds=1,
    entries=1000,
    many_entries=1000,
    files=20,
)


@dataclass(frozen=True)
class Line:
    """ours, against: the medians, with their units. ratio: None where there is none."""

    row: str
    what: str
    goal: str = ""
    ours: str = ""
    against: str = ""
    ratio: Ratio | None = None


class Bench:
    def __init__(self, home: Path, sizes: Sizes, stack: ExitStack) -> None:
        self.home = home
        self.sizes = sizes
        self._stack = stack
        self._daemons: dict[tuple[str, ...], Agentd] = {}
        self._source: Source | None = None
        self._digests: dict[int, list[str]] = {}

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = Source(self.home / "source", self.sizes.whole)
            self._stack.callback(self._source.close)
        return self._source

    def daemon(self, part_size: int | None = None, durability: str = "process") -> Agentd:
        """One for each set of flags, kept to the end."""
        flags = ("--uploads-part-size", str(part_size or self.sizes.part), "--uploads-durability", durability)
        if flags not in self._daemons:
            self._daemons[flags] = Agentd(self.home / f"agentd-{len(self._daemons)}", *flags)
            self._stack.callback(self._daemons[flags].close)
        return self._daemons[flags]

    @property
    def daemons(self) -> list[Agentd]:
        return list(self._daemons.values())

    @contextmanager
    def bare(self, way: str) -> Iterator[Bare]:
        server = Bare(Path(tempfile.mkdtemp(prefix=f"bare-{way}-", dir=self.home)) / "files", way)
        try:
            yield server
        finally:
            server.close()

    @contextmanager
    def nginx(self, name: str) -> Iterator[Nginx]:
        server = Nginx(self.home / f"nginx-{name}")
        try:
            yield server
        finally:
            server.close()

    def digests(self, part_size: int) -> list[str]:
        """SHA-256 of each part of the source."""
        if part_size not in self._digests:
            offsets = range(0, self.sizes.whole, part_size)
            self._digests[part_size] = [self.source.sha256(offset, part_size) for offset in offsets]
        return self._digests[part_size]

    def ours(self, at_once: int = 1, digests: list[str] | None = None) -> Sample:
        """All parts of an upload, without its creation and end."""
        daemon = self.daemon()
        session = daemon.create(self.sizes.whole)
        parts = list(daemon.all_parts(session, digests))
        taken = sample(daemon.pid, lambda: send(daemon.port, self.source, parts, at_once))
        daemon.abort(session)
        return taken

    def theirs(self, server: Bare) -> Sample:
        """The same bytes in the same requests."""
        server.create(self.sizes.whole)
        parts = list(server.parts(self.source, self.sizes.part))
        taken = sample(server.pid, lambda: send(server.port, self.source, parts))
        server.remove()
        return taken

    def seconds(self, samples: Samples) -> str:
        """CPU, user and system, for a GiB."""
        scale = GiB / self.sizes.whole
        found = [median(samples, of) * scale for of in (cpu, lambda s: s.user, lambda s: s.system)]
        return f"{found[0]:.2f} s/GiB ({found[1]:.2f} + {found[2]:.2f})"


def cpu(taken: Sample) -> float:
    return taken.cpu


def wall(taken: Sample) -> float:
    return taken.wall


def ingest(bench: Bench) -> Iterator[Line]:
    what = "CPU of parts without a digest, one connection, against"
    with bench.bare("loop+xxh3") as hashing, bench.bare("loop") as plain:
        acts = bench.ours, lambda: bench.theirs(hashing), lambda: bench.theirs(plain)
        ours, *others = in_turn(bench.sizes.rounds, *acts)
    goals = "1.15 with xxh3 on the way, 1.0 without", ""
    names = "a bare receiving loop with xxh3", "the bare loop without a hash"
    for name, goal, theirs in zip(names, goals, others, strict=True):
        yield compare_cpu(bench, "1", f"{what} {name}", goal, [ours, theirs])


def stream(bench: Bench) -> Iterator[Line]:
    with bench.bare("stream+xxh3") as server:
        found = in_turn(bench.sizes.rounds, bench.ours, lambda: bench.theirs(server))
    yield compare_cpu(bench, "2", "the same, against aiohttp's body stream with xxh3", "0.75", found)
    yield Line("2", "share of user space in ours", "0.2", ratio=share(found[0]))


def declared(bench: Bench) -> Iterator[Line]:
    digests = bench.digests(bench.sizes.part)

    def bare() -> Sample:
        def act() -> None:
            for piece in pieces:
                hashlib.sha256(piece)

        pieces = [bench.source.read(offset, MiB) for offset in range(0, bench.sizes.whole, MiB)]
        return sample(os.getpid(), act)

    with bench.bare("loop") as plain:
        acts = (lambda: bench.ours(2, digests), lambda: bench.ours(1, digests), bare, lambda: bench.theirs(plain))
        two, one, hashed, floor = in_turn(bench.sizes.rounds, *acts)
    what = "CPU of parts with a declared SHA-256, two at once, against"
    for times, goal in ((1, "1.1"), (2, "")):
        least = [_sum(under, *[hash_] * times) for under, hash_ in zip(floor, hashed, strict=True)]
        name = "one hash" if times == 1 else "two (the parts' and the whole's, which follows)"
        yield compare_cpu(bench, "3", f"{what} the bare loop and {name}", goal, [two, least])
    for name, samples in (("one connection", one), ("two connections", two)):
        yield compare_time("3", f"time of the same over {name}, against hashlib alone", "", [samples, hashed])


def _sum(*samples: Sample) -> Sample:
    return Sample(*(sum(values) for values in zip(*((s.wall, s.user, s.system) for s in samples), strict=True)))


def against_nginx(bench: Bench) -> Iterator[Line]:
    if not nginx_path():
        yield Line("4", "nginx is not installed")
        return
    size, whole = bench.sizes.large_part, bench.sizes.whole
    daemon = bench.daemon(part_size=size)

    def upload() -> None:
        session = daemon.create(whole)
        send(daemon.port, bench.source, daemon.all_parts(session), 8)
        daemon.complete(session)

    def ours() -> Sample:
        taken = sample(daemon.pid, upload)
        daemon.remove()
        return taken

    with bench.nginx("put") as nginx:

        def theirs() -> Sample:
            files = list(nginx.parts(bench.source, size))
            taken = sample(nginx.pid, lambda: send(nginx.port, bench.source, files, 8))
            nginx.remove()
            return taken

        found = in_turn(bench.sizes.rounds, ours, theirs)
    what = f"{whole // MiB} MiB in {size // MiB} MiB parts, 8 at once, create to complete, against nginx taking them as"
    what += f" {whole // size} files"
    yield compare_time("4", f"time of {what}", "1.1", found)
    yield compare_cpu(bench, "4", "CPU of the same", "", found)


def at_once(bench: Bench) -> Iterator[Line]:
    one, four, sixteen = in_turn(bench.sizes.rounds, *(partial(bench.ours, count) for count in (1, 4, 16)))
    for name, samples in (("4", four), ("16", sixteen)):
        speed = (_speed(bench, one), _speed(bench, samples))
        faster = ratio(one, samples, wall)
        yield Line("5", f"throughput of {name} parts at once, against one", "", speed[1], speed[0], faster)


def _speed(bench: Bench, samples: Samples) -> str:
    return f"{bench.sizes.whole / MiB / median(samples, wall):.0f} MiB/s"


def sparse(bench: Bench) -> Iterator[Line]:
    for part_size in (bench.sizes.part, bench.sizes.small):
        yield from _sparse(bench, part_size)


def _sparse(bench: Bench, part_size: int) -> Iterator[Line]:
    daemon = bench.daemon(part_size=part_size)
    count = bench.sizes.whole // part_size // 2

    def some(size: int) -> Sample:
        session = daemon.create(size)
        assert session["part_size"] == part_size
        step = session["part_count"] // count
        parts = list(daemon.parts(session, range(0, count * step, step)))
        taken = sample(daemon.pid, lambda: send(daemon.port, bench.source, parts))
        daemon.abort(session)
        return taken

    found = in_turn(bench.sizes.rounds, lambda: some(bench.sizes.sparse), lambda: some(bench.sizes.whole))
    what = f"a part of {part_size / MiB:g} MiB in a sparse {bench.sizes.sparse // GiB} GiB file, against one in "
    what += f"{bench.sizes.whole // MiB} MiB"
    for name, of in (("CPU", cpu), ("time", wall)):

        def each(samples: Samples, of: Of = of) -> str:
            return f"{median(samples, of) / count * 1e3:.2f} ms"

        yield _line("6", f"{name} of {what}", "about 1", found, of, each)


def complete(bench: Bench) -> Iterator[Line]:
    for durability in ("process", "power"):
        yield from _complete_sizes(bench, durability)
        yield from _complete_replacing(bench, durability)


def _complete_sizes(bench: Bench, durability: str) -> Iterator[Line]:
    daemon = bench.daemon(durability=durability)
    whole, small = bench.sizes.whole, bench.sizes.small
    digests, declared = bench.digests(bench.sizes.part), bench.source.sha256(0, whole)
    uploads: Samples = []

    def of(size: int) -> Sample:
        session = daemon.create(size)
        *first, last = daemon.all_parts(session)
        send(daemon.port, bench.source, first, 4)
        return _completed(bench, daemon, session, last)

    def followed() -> Sample:
        """The completion right after the last of all parts in their order; the whole time goes to ``uploads``."""
        session = daemon.create(whole)
        began = time.perf_counter()
        with Connection(daemon.port) as connection:
            for part in daemon.all_parts(session, digests):
                connection.put(part, bench.source)
            sent = time.perf_counter()
            daemon.complete_on(connection, session, declared)
        ended = time.perf_counter()
        daemon.remove()
        uploads.append(Sample(ended - began, 0, 0))
        return Sample(ended - sent, 0, 0)

    big, little, hashed = in_turn(bench.sizes.rounds, lambda: of(whole), lambda: of(small), followed)
    size = f"{whole // MiB} MiB ({durability})"
    yield _moment("7", f"complete of {size}, no digest, against {small / MiB:g} MiB", "20 ms", [big, little])
    what = f"complete of {size} with a digest, right after its parts in their order, against the whole upload"
    yield _moment("7", what, "0.05", [hashed, uploads[-len(hashed) :]])


def _complete_replacing(bench: Bench, durability: str) -> Iterator[Line]:
    daemon = bench.daemon(durability=durability)
    size = bench.sizes.replaced

    def act(*, keep: bool) -> Sample:
        session = daemon.create(size)
        *first, last = daemon.all_parts(session)
        send(daemon.port, bench.source, first, 4)
        return _completed(bench, daemon, session, last, keep=keep)

    fresh, replacing = in_turn(bench.sizes.rounds, lambda: act(keep=True), lambda: act(keep=False))
    what = f"complete that replaces {size // MiB} MiB ({durability}), against a fresh target"
    yield _moment("7", what, "1.3", [replacing, fresh])


def _completed(bench: Bench, daemon: Agentd, session: Any, last: Any, *, keep: bool = False) -> Sample:
    """Sends the ``last`` part once the daemon is quiet, and then takes the time of the completion alone."""
    sample(daemon.pid, lambda: None)
    with Connection(daemon.port) as connection:
        connection.put(last, bench.source)
        began = time.perf_counter()
        daemon.complete_on(connection, session)
        took = time.perf_counter() - began
    if not keep:
        daemon.remove()
    return Sample(took, 0, 0)


def download(bench: Bench) -> Iterator[Line]:
    if not nginx_path():
        yield Line("8", "nginx is not installed")
        return
    daemon = bench.daemon()
    session = daemon.create(bench.sizes.whole, "download")
    send(daemon.port, bench.source, daemon.all_parts(session), 4)
    daemon.complete(session)
    with bench.nginx("get") as nginx:
        os.link(daemon.root / "workspace/download", nginx.files / "download")

        def get(pid: int, port: int, path: str) -> Sample:
            with Connection(port) as connection:
                return sample(pid, lambda: connection.download(path))

        found = in_turn(
            bench.sizes.rounds,
            lambda: get(daemon.pid, daemon.port, "/v1/file?path=/workspace/download"),
            lambda: get(nginx.pid, nginx.port, "/download"),
        )
    what = f"download of {bench.sizes.whole // MiB} MiB, against nginx"
    yield compare_time("8", f"time of a {what}", "", found)
    yield compare_cpu(bench, "8", f"CPU of a {what}", "", found)


def peak(bench: Bench) -> Iterator[Line]:
    """Of a daemon that has done nothing before."""
    daemon = bench.daemon(part_size=4 * bench.sizes.part)
    idle = daemon.peak
    session = daemon.create(bench.sizes.whole)
    send(daemon.port, bench.source, daemon.all_parts(session), 16)
    daemon.abort(session)
    over = daemon.peak - idle
    yield Line("9", "peak resident memory over idle, 16 parts at once", "16 MiB", f"{over / MiB:.1f} MiB")
    found = max(daemon.peak for daemon in bench.daemons)
    yield Line("9", "peak resident memory of the daemons of all rows", "", f"{found / MiB:.0f} MiB")


def _line(row: str, what: str, goal: str, pair: list[Samples], of: Of, text: Callable[[Samples], str]) -> Line:
    ours, theirs = pair
    return Line(row, what, goal, text(ours), text(theirs), ratio(ours, theirs, of))


def compare_cpu(bench: Bench, row: str, what: str, goal: str, pair: list[Samples]) -> Line:
    return _line(row, what, goal, pair, cpu, bench.seconds)


def compare_time(row: str, what: str, goal: str, pair: list[Samples]) -> Line:
    return _line(row, what, goal, pair, wall, lambda samples: f"{median(samples, wall):.2f} s")


def _moment(row: str, what: str, goal: str, pair: list[Samples]) -> Line:
    return _line(row, what, goal, pair, wall, lambda samples: f"{median(samples, wall) * 1e3:.1f} ms")


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "1": ingest,
    "2": stream,
    "3": declared,
    "4": against_nginx,
    "5": at_once,
    "6": sparse,
    "7": complete,
    "8": download,
    "9": peak,
}
