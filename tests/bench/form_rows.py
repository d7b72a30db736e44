"""What files cost that come in forms, against the same bytes as they are."""

from collections.abc import Callable, Iterator
from functools import partial

from tests.bench.measure import Sample, in_turn, sample
from tests.bench.rows import Bench, Line, MiB, compare_cpu, compare_time
from tests.bench.sending import Put, send

SMALL = 4096
BOUNDARY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"  # as long as those that clients make up
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def _field(name: str, filename: str = "") -> bytes:
    """What stands before the content of a field."""
    named = f'; filename="{filename}"' if filename else ""
    return f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()


def _taken(bench: Bench, *requests: Put) -> Sample:
    """One connection; the files go away afterwards."""
    daemon = bench.daemon()
    taken = sample(daemon.pid, lambda: send(daemon.port, bench.source, requests))
    for file in (daemon.root / "workspace").glob("form-*"):
        file.unlink()
    return taken


def one_file(bench: Bench) -> Iterator[Line]:
    size, path = bench.sizes.whole, "/v1/file?path=/workspace/form-target"
    form = Put(path, 0, size, FORM, "POST", _field("file", "target")[2:], END)
    found = in_turn(bench.sizes.rounds, partial(_taken, bench, form), partial(_taken, bench, Put(path, 0, size)))
    what = f"a file of {size // MiB} MiB in a form, against the same as a body"
    yield compare_cpu(bench, "form", f"CPU of {what}", "1.5", found)
    yield compare_time("form", f"time of {what}", "", found)


def many_files(bench: Bench) -> Iterator[Line]:
    count = bench.sizes.files
    fields: list[bytes] = []
    for number in range(count):
        fields += [_field(f"files[{number}].path"), b"/workspace/form-%d" % number]
        fields += [_field(f"files[{number}].file", "x"), bench.source.read(number * SMALL, SMALL)]
    form = Put("/daytona/files/bulk-upload", 0, 0, FORM, "POST", b"".join(fields)[2:], END)
    single = [Put(f"/v1/file?path=/workspace/form-{number}", number * SMALL, SMALL) for number in range(count)]
    found = in_turn(bench.sizes.rounds, partial(_taken, bench, form), partial(_taken, bench, *single))
    what = f"{count} files of {SMALL // 1024} KiB in one form, against one request for each"
    yield compare_time("form", f"time of {what}", "below 1", found)


def forms(bench: Bench) -> Iterator[Line]:
    yield from one_file(bench)
    yield from many_files(bench)


ROWS: dict[str, Callable[[Bench], Iterator[Line]]] = {"form": forms}
