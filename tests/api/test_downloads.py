"""What a download promises: ranges, conditions, the truth about odd files, and a connection that goes on."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest

from agentd.http.download import PIECE
from tests.conftest import UNIT, Answer, Daemon, StartDaemon
from tests.process.harness.waiting import eventually

SIZE = 3 * PIECE + 7
LONG_AGO = 1_000_000_000
BIG = 24 << 20


class File:
    """A file in the sandbox, and requests for it."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.daemon = daemon
        self.path = path
        self.url = "/v1/file?path=" + quote(f"/{path.relative_to(daemon.root)}", safe="", errors="surrogateescape")

    def get(self, method: str = "GET", **headers: str) -> Answer:
        return self.daemon.call(method, self.url, None, {name.replace("_", "-"): headers[name] for name in headers})

    def tag(self) -> str:
        return self.get("HEAD").headers["etag"]


@pytest.fixture(params=[10, SIZE], ids=["small", "large"])
def file(request: pytest.FixtureRequest, shared: Daemon, home: Path) -> File:
    path = home / "file"
    path.write_bytes(os.urandom(request.param))
    os.utime(path, (LONG_AGO, LONG_AGO))
    return File(shared, path)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose sandbox is the machine itself, /proc and all; its own things are elsewhere."""
    place = tmp_path_factory.mktemp("machine")
    daemon = MachineDaemon(Path("/"), place / "stderr", ("--workspace", str(place)), {"AGENTD_TEST_SECRET": "hidden"})
    daemon.place = place
    yield daemon
    assert daemon.term() == 0


class MachineDaemon(Daemon):
    place: Path

    @property
    def token(self) -> str:
        return (self.place / ".nullspace/token").read_text().strip()


def test_a_whole_file_comes_with_everything_a_client_can_use_later(file: File) -> None:
    answer = file.get()
    assert (answer.status, answer.body) == (200, file.path.read_bytes())
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''file"
    assert answer.headers["last-modified"] == formatdate(LONG_AGO, usegmt=True)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')


def test_head_says_the_same_and_sends_nothing(file: File) -> None:
    whole, head = file.get(), file.get("HEAD", Range="bytes=1-2")
    drop = ("date", "x-request-id")
    assert (head.status, head.body) == (200, b"")
    assert {name: text for name, text in head.headers.items() if name not in drop} == {
        name: text for name, text in whole.headers.items() if name not in drop
    }


@pytest.mark.parametrize(("span", "first", "end"), [("2-5", 2, 6), ("3-", 3, None), ("-4", -4, None), ("0-", 0, None)])
def test_a_range_is_206_and_those_bytes(file: File, span: str, first: int, end: int | None) -> None:
    content = file.path.read_bytes()
    answer = file.get(Range=f"bytes={span}")
    assert (answer.status, answer.body) == (206, content[first:end])
    begin = first % len(content)
    assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(answer.body) - 1}/{len(content)}"


def test_several_ranges_get_the_whole_file(file: File) -> None:
    answer = file.get(Range="bytes=0-0,3-4")
    assert (answer.status, answer.body) == (200, file.path.read_bytes())
    assert "content-range" not in answer.headers


def test_a_range_behind_the_end_is_416_with_the_size(file: File) -> None:
    size = file.path.stat().st_size
    answer = file.get(Range=f"bytes={size}-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{size}")
    assert (answer.json()["code"], answer.json()["details"]) == ("range_not_satisfiable", {"size": size})


def test_of_an_empty_file_no_byte_can_be_had(file: File) -> None:
    file.path.write_bytes(b"")
    assert (file.get().status, file.get().body) == (200, b"")
    assert file.get(Range="bytes=-3").status == 200
    assert (file.get(Range="bytes=0-").status, file.get(Range="bytes=0-").headers["content-range"]) == (
        416,
        "bytes */0",
    )


def test_what_the_client_has_already_is_304_without_content(file: File) -> None:
    tag = file.tag()
    for headers in ({"If_None_Match": tag}, {"If_Modified_Since": formatdate(LONG_AGO, usegmt=True)}):
        for method in ("GET", "HEAD"):
            answer = file.get(method, **headers)
            assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
            assert not {"content-length", "content-type"} & set(answer.headers)


@pytest.mark.parametrize("header", ["Sun, 09 Sep 2001 01:46:40 GMT", "Sunday, 09-Sep-01 01:46:40 GMT"])
def test_dates_of_any_form_are_understood_and_nonsense_is_ignored(file: File, header: str) -> None:
    assert file.get(If_Modified_Since=header).status == 304
    assert file.get(If_Unmodified_Since=header).status == 200
    assert file.get(If_Modified_Since=header.replace("Sep", "Foo")).status == 200


def test_a_condition_that_does_not_hold_is_412(file: File) -> None:
    assert file.get(If_Match=file.tag()).status == 200
    answer = file.get(If_Match='"other"')
    assert (answer.status, answer.json()["code"]) == (412, "precondition_failed")
    assert file.get(If_Unmodified_Since=formatdate(LONG_AGO - 1, usegmt=True)).status == 412


def test_a_part_goes_on_while_the_file_is_the_same_and_starts_over_when_not(file: File) -> None:
    tag, date = file.tag(), formatdate(LONG_AGO, usegmt=True)
    assert file.get(Range="bytes=4-", If_Range=tag).status == 206
    assert file.get(Range="bytes=4-", If_Range=date).status == 206
    assert file.get(Range="bytes=4-", If_Range=formatdate(LONG_AGO + 1, usegmt=True)).status == 200
    with file.path.open("r+b") as changed:
        changed.write(b"other")
    answer = file.get(Range="bytes=4-", If_Range=tag)
    assert (answer.status, answer.body) == (200, file.path.read_bytes())


def test_the_tag_changes_with_the_content_even_if_size_and_date_are_kept(file: File) -> None:
    tags = set()
    for turn in range(20):
        file.path.write_bytes(bytes([turn]) * 10)
        os.utime(file.path, (LONG_AGO, LONG_AGO))
        tags.add(file.tag())
    assert len(tags) == 20


@pytest.mark.parametrize(
    "name", [b"a\r\nX-Evil: 1", b'q"uo\\te;', b"\xff\xfe", "\u202eé".encode(), b"%41", b"\x7f\x01"]
)
def test_no_name_breaks_the_headers(shared: Daemon, home: Path, name: bytes) -> None:
    path = home / os.fsdecode(name)
    path.write_bytes(b"x")
    answer = File(shared, path).get()
    assert (answer.status, answer.body) == (200, b"x")
    wanted = quote(name.decode("utf-8", "replace"), safe="")
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{wanted}"
    assert "x-evil" not in answer.headers


def test_a_date_that_http_cannot_write_is_no_failure(shared: Daemon, home: Path) -> None:
    for number, seconds in enumerate((-5_000_000_000, 1 << 40)):
        path = home / str(number)
        path.write_bytes(b"x")
        os.utime(path, (0, seconds))
        assert File(shared, path).get().status == 200


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory"])
def test_what_is_no_file_is_refused_at_once(shared: Daemon, home: Path, kind: str) -> None:
    path = home / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, 0o140600)
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    else:
        path.mkdir()
    answer = File(shared, path).get()
    code = ("is_a_directory", 409) if kind == "directory" else ("invalid_request", 400)
    assert (answer.json()["code"], answer.status) == code


def test_a_connection_goes_on_after_each_kind_of_download(file: File) -> None:
    content, tag = file.path.read_bytes(), file.tag()
    ask = f"GET {file.url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {file.daemon.token}\r\n"
    kinds = ["", "Range: bytes=1-\r\n", f"If-None-Match: {tag}\r\n", "Range: bytes=99999999-\r\n", ""]
    with file.daemon.connect() as peer, peer.makefile("rb") as answers:
        peer.sendall("".join(f"{ask}{kind}\r\n" for kind in kinds).encode())  # pipelined: nothing may interleave
        for status, body in ((200, content), (206, content[1:]), (304, b""), (416, None), (200, content)):
            assert answers.readline().split()[1] == str(status).encode()
            headers = dict(line.lower().split(b": ") for line in iter(answers.readline, b"\r\n"))
            got = answers.read(int(headers.get(b"content-length", b"0")))
            assert body in (None, got)


def begun(daemon: Daemon, path: Path) -> socket.socket:
    """A connection on which a download has begun, and nobody reads on."""
    peer = daemon.connect()
    headers = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {daemon.token}"
    peer.sendall(f"GET {File(daemon, path).url} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
    assert peer.recv(9) == b"HTTP/1.1 "
    return peer


def everything(peer: socket.socket) -> bytes:
    pieces = []
    with peer, suppress(ConnectionResetError):
        while piece := peer.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture
def big(home: Path) -> Path:
    """More than the sockets of a connection hold."""
    path = home / "big"
    path.write_bytes(b"x" * BIG)
    return path


def test_a_client_that_takes_nothing_is_let_go(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon("--limits-body-stall-timeout", str(UNIT / 2))
    path = daemon.root / "workspace/big"
    path.write_bytes(b"x" * BIG)
    with begun(daemon, path) as peer:
        assert eventually(lambda: any(line.get("code") == "request_timeout" for line in daemon.log()))
        assert len(everything(peer)) < BIG


@pytest.mark.parametrize(("length", "until"), [(BIG, BIG - 4096), (BIG, 1_000_001), (1 << 20, 500_001)])
def test_nothing_is_made_up_for_a_file_that_becomes_shorter(shared: Daemon, big: Path, length: int, until: int) -> None:
    os.truncate(big, length)
    peer = begun(shared, big)
    os.truncate(big, until)
    body = everything(peer).partition(b"\r\n\r\n")[2]
    assert set(body) == {ord("x")}
    assert until <= len(body) <= length


def test_clients_that_leave_midway_leave_nothing_behind(shared: Daemon, big: Path) -> None:
    fds = f"/proc/{shared.pid}/fd"
    before = len(os.listdir(fds))
    for _ in range(5):
        begun(shared, big).close()
    assert eventually(lambda: len(os.listdir(fds)) <= before)


def test_slow_clients_are_served_at_once_and_hold_up_nobody(shared: Daemon, big: Path, home: Path) -> None:
    (home / "small").write_bytes(b"x")
    slow = [begun(shared, big) for _ in range(40)]
    assert File(shared, home / "small").get().body == b"x"
    assert File(shared, big).get().body == b"x" * BIG
    for peer in slow:
        peer.close()


def test_the_holes_of_a_sparse_file_come_as_zeros(shared: Daemon, home: Path) -> None:
    path = home / "sparse"
    with path.open("wb") as sparse:
        sparse.truncate(40 << 20)
        os.pwrite(sparse.fileno(), b"here", 30 << 20)
    answer = File(shared, path).get(Range="bytes=1048576-")
    assert answer.body == bytes(29 << 20) + b"here" + bytes((10 << 20) - 4)


@pytest.mark.parametrize("path", ["/proc/cpuinfo", "/proc/mounts", "/proc/net/dev", "/proc/sys/kernel/ostype"])
def test_a_file_that_the_kernel_makes_comes_whole_and_with_its_true_length(machine: Daemon, path: str) -> None:
    answer = File(machine, Path(path)).get()
    lines, real = answer.body.decode().splitlines(), Path(path).read_text().splitlines()
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(answer.body)))
    assert len(answer.body) > 0
    assert [line.split()[:1] for line in lines] == [line.split()[:1] for line in real]


def test_a_file_of_sys_has_not_the_page_that_it_claims(machine: Daemon) -> None:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    path = path if path.exists() else Path("/sys/kernel/uevent_seqnum")
    answer = File(machine, path).get()
    assert (answer.status, answer.body) == (200, path.read_bytes())
    assert path.stat().st_size != len(answer.body)


def test_another_process_may_be_read_about(machine: Daemon) -> None:
    with subprocess.Popen(["sleep", "60"], env={"SAID": "aloud"}) as other:
        try:
            answer = File(machine, Path(f"/proc/{other.pid}/environ")).get()
            assert (answer.status, answer.body) == (200, b"SAID=aloud\0")
        finally:
            other.kill()


@pytest.mark.parametrize("name", ["environ", "mem", "maps", "auxv", "cmdline", "fd/0", "root/etc/passwd", "net/../mem"])
@pytest.mark.parametrize("who", ["self", "thread-self", "pid", "thread", "task"])
def test_the_daemons_own_process_is_not_given_out(machine: Daemon, who: str, name: str) -> None:
    thread = max(map(int, os.listdir(f"/proc/{machine.pid}/task")))
    place = {"pid": f"{machine.pid}", "thread": f"{thread}", "task": f"{machine.pid}/task/{thread}"}.get(who, who)
    answer = File(machine, Path(f"/proc/{place}/{name}")).get()
    assert (answer.status, answer.json()["code"]) == (403, "permission_denied")
    assert b"hidden" not in answer.body


def test_memory_by_way_of_the_whole_kernels_is_refused_too(machine: Daemon) -> None:
    answer = File(machine, Path("/proc/kcore")).get()
    assert answer.status in (403, 404)
