"""Forms: which parts a handler gets, whatever the pieces are that they come in, and what is refused."""

import asyncio
import errno
import os
from typing import Any

import pytest

from agentd.errors import AgentError
from agentd.http.endpoint import Call, Endpoint
from agentd.http.multipart import FormLimits
from tests.unit.http.conftest import Door, OpenDoor, Peer

BOUNDARY = "-----x7"
TYPE = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
MIB = 1 << 20


def part(disposition: str, content: bytes = b"", *headers: str) -> bytes:
    lines = [f"--{BOUNDARY}", f"Content-Disposition: form-data; {disposition}", *headers, "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Taker:
    """A row that takes forms: what its parts were. ``read``: fields that are not files are read, files received."""

    def __init__(self, limits: FormLimits | None = None, *, part_limit: int = 64 * MIB, skip: bool = False) -> None:
        self.limits = limits or FormLimits(64 * MIB)
        self.part_limit = part_limit
        self.skip = skip
        self.parts: list[tuple[str, str | None, bytes]] = []
        self.pieces: list[int] = []
        self.failures: list[BaseException] = []
        self.over = asyncio.Event()
        self.row = Endpoint("POST", "/form", "form", self.post)

    async def post(self, call: Call) -> object:
        try:
            async for one in call.body.multipart(self.limits):
                content = b"" if self.skip else await self.take(one)
                self.parts.append((one.name, one.filename, content))
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            self.over.set()
        return len(self.parts)

    async def take(self, one: Any) -> bytes:
        content = bytearray()

        def write(piece: memoryview) -> None:
            self.pieces.append(len(piece))
            if one.name == "bad":
                raise OSError(errno.ENOSPC, "full")
            content.extend(piece)

        if one.filename is None:
            return bytes(await one.read(self.part_limit))
        try:
            assert await one.receive(write, self.part_limit) == len(content)
        except (OSError, AgentError) as error:
            self.failures.append(error)
        return bytes(content)


async def sent(door: Door, body: bytes, *headers: str) -> tuple[int, bytes]:
    return (await door.ask("POST /form", body, *(headers or (TYPE,))))[::2]


FILE = b"a\r\n--" + BOUNDARY[:-1].encode() + b"\r\n\r\n--" + b"\r" * 5
PARTS = [("b", None, "\u00e9".encode()), ("f", "/abs/\u00e9.txt", FILE), ("a", None, b""), ("g", "", b"\r\n")]
FORM = form(
    part('name="b"', "\u00e9".encode()),
    part('name="f"; filename="/abs/\u00e9.txt"', FILE, "Content-Type: text/plain"),
    part('name="a"'),
    part('name="g"; filename=""', b"\r\n"),
)


async def test_parts_come_in_the_order_of_the_form(open_door: OpenDoor) -> None:
    taker = Taker()
    assert await sent(await open_door(taker.row), FORM) == (200, b"4")
    assert taker.parts == PARTS


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_pieces_that_a_form_comes_in_do_not_matter(open_door: OpenDoor, size: int, chunked: bool) -> None:
    taker = Taker()
    peer = await (await open_door(taker.row)).connect()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(FORM)}"
    await peer.send("POST /form", b"", TYPE, framing)
    for at in range(0, len(FORM), size):
        piece = FORM[at : at + size]
        await peer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        await asyncio.sleep(0)
    await peer.write(b"0\r\n\r\n" if chunked else b"")
    assert (await peer.answer())[0] == 200
    assert taker.parts == PARTS


async def test_a_large_file_comes_whole_in_large_pieces(open_door: OpenDoor) -> None:
    taker = Taker()
    content = (os.urandom(MIB - 37) + b"\r\n--" + BOUNDARY[:-2].encode()) * 20
    body = form(part('name="f"; filename="f"', content), part('name="last"', b"x"))
    assert await sent(await open_door(taker.row), body) == (200, b"2")
    assert taker.parts == [("f", "f", content), ("last", None, b"x")]
    assert len(taker.pieces) < len(content) // (32 << 10)


async def test_the_connection_serves_the_next_request_whatever_was_read_of_a_form(open_door: OpenDoor) -> None:
    async def first(call: Call) -> object:
        async for one in call.body.multipart(FormLimits(64 * MIB)):
            return one.name
        return None

    row = Endpoint("POST", "/first", "first", first)
    peer = await (await open_door(row, Taker(skip=True).row)).connect()
    body = form(part('name="f"; filename="f"', bytes(3 * MIB)), part('name="g"', b"x"))
    for path, answer in (("/first", b'"f"'), ("/form", b"2"), ("/first", b'"f"'), ("/form", b"4")):
        await peer.send(f"POST {path}", body, TYPE)
        assert (await peer.answer())[::2] == (200, answer)


async def test_an_empty_form_and_what_stands_around_it_are_no_parts(open_door: OpenDoor) -> None:
    door = await open_door(Taker().row)
    assert await sent(door, form()) == (200, b"0")
    taker = Taker()
    around = b"preamble\r\n" + form(part('name="a"', b"x")) + b"epilogue" * 10000
    assert await sent(await open_door(taker.row), around) == (200, b"1")


async def test_a_part_whose_write_fails_leaves_the_others_alone(open_door: OpenDoor) -> None:
    taker = Taker()
    body = form(part('name="bad"; filename="f"', bytes(5 * MIB)), part('name="g"; filename="g"', b"x" * MIB))
    assert await sent(await open_door(taker.row), body) == (200, b"2")
    assert taker.parts == [("bad", "f", b""), ("g", "g", b"x" * MIB)]
    assert [getattr(error, "errno", None) for error in taker.failures] == [errno.ENOSPC]


async def test_a_part_above_its_limit_leaves_the_others_alone(open_door: OpenDoor) -> None:
    taker = Taker(part_limit=10)
    body = form(part('name="f"; filename="f"', bytes(2 * MIB)), part('name="g"; filename="g"', b"x" * 10))
    assert await sent(await open_door(taker.row), body) == (200, b"2")
    assert taker.parts[1] == ("g", "g", b"x" * 10)
    assert [getattr(error, "code", "") for error in taker.failures] == ["request_too_large"]


@pytest.mark.parametrize(
    "limits",
    [FormLimits(len(FORM) - 1), FormLimits(MIB, parts=3), FormLimits(MIB, header_bytes=40), FormLimits(MIB, headers=1)],
)
@pytest.mark.parametrize("framing", ["Content-Length: %d", "Transfer-Encoding: chunked"])
async def test_a_form_has_limits(open_door: OpenDoor, limits: FormLimits, framing: str) -> None:
    chunked = framing.startswith("T")
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(FORM), FORM) if chunked else FORM
    headers = (TYPE, framing if chunked else framing % len(FORM))
    assert (await sent(await open_door(Taker(limits).row), body, *headers))[0] == 413


@pytest.mark.parametrize("end", range(1, len(FORM) - 4, 17))
async def test_a_form_that_ends_early_is_no_form(open_door: OpenDoor, end: int) -> None:
    status, body = await sent(await open_door(Taker().row), FORM[:end])
    assert (status, b"invalid_request" in body) == (400, True)


async def test_a_client_that_leaves_within_a_part_has_gone(open_door: OpenDoor) -> None:
    taker = Taker()
    peer: Peer = await (await open_door(taker.row)).connect()
    await peer.send("POST /form", FORM[:200], TYPE, "Content-Length: 100000")
    peer.reset()
    async with asyncio.timeout(10):
        await taker.over.wait()
    assert {type(error).__name__ for error in taker.failures} == {"ClientGone"}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 415),
        ("multipart/mixed; boundary=-----x7", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ('multipart/form-data; boundary=""', 400),
        ("multipart/form-data; boundary=-----x7; boundary=-----x7", 400),
        (f"multipart/form-data; boundary={'x' * 71}", 400),
        ('multipart/form-data; boundary="a\\"b"', 400),
        ("multipart/form-data; boundary=other", 400),
        ('Multipart/Form-Data; charset=utf-8;  Boundary="-----x7";', 200),
    ],
)
async def test_a_form_needs_its_content_type_and_one_boundary(open_door: OpenDoor, kind: str, status: int) -> None:
    assert (await sent(await open_door(Taker().row), FORM, f"Content-Type: {kind}"))[0] == status


async def test_what_never_begins_is_not_read_to_its_end(open_door: OpenDoor) -> None:
    taker = Taker()
    assert (await sent(await open_door(taker.row), b"x" * (5 * MIB)))[0] == 400
    assert taker.parts == []


@pytest.mark.parametrize(
    "head",
    [
        *(
            "",
            "Content-Type: text/plain",
            'Content-Disposition: attachment; name="x"',
            "Content-Disposition: form-data",
        ),
        *('Content-Disposition: form-data; name="a', 'Content-Disposition: form-data; name="a"; name="b"'),
        'Content-Disposition: form-data; name="a" x',
        "Content-Disposition: form-data; name=\"a\"; filename*=utf-16''a",
        "Content-Disposition: form-data; name=\"a\"; filename*=UTF-8''%zz",
        'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="b"',
        'Content-Disposition: form-data; name="a"\r\nContent-Length: 99',
        'Content-Disposition: form-data; name="a"\r\nContent-Length: -1',
        'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64',
        'Content-Disposition: form-data; name="a"\r\nno colon',
        'Content-Disposition: form-data; name="a"\r\nbad name: x',
        'Content-Disposition: form-data; name="a"\nX: y',
    ],
)
async def test_headers_of_a_part_that_cannot_be_read_are_refused(open_door: OpenDoor, head: str) -> None:
    body = f"--{BOUNDARY}\r\n{head}\r\n\r\nx\r\n".encode() + form()
    status, answer = await sent(await open_door(Taker().row), body)
    assert (status, b"invalid_request" in answer) == (400, True)


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ('filename="/a/b.txt"', "/a/b.txt"),
        ('filename="../x"', "../x"),
        (r'filename="C:\dir\x"', r"C:\dir\x"),
        (r'filename="a\"b\\c"', 'a"b\\c'),
        ('filename="a%22b%0D%0a%2F"', 'a"b\r\n%2F'),
        ("filename=/tmp/plain.txt", "/tmp/plain.txt"),
        ("filename*=UTF-8''%2Fna%C3%AFve%ff", "/na\u00efve\udcff"),
        ("filename=\"x\"; filename*=iso-8859-1'en'%E9", "\u00e9"),
        ('filename="\udcff\u00e9"', "\udcff\u00e9"),
        ('FileName = "x;y=z"', "x;y=z"),
        ('filename=""', ""),
    ],
)
async def test_a_file_is_called_what_the_client_calls_it(open_door: OpenDoor, parameter: str, name: str) -> None:
    taker = Taker()
    assert (await sent(await open_door(taker.row), form(part(f'name="f"; {parameter}', b"x"))))[0] == 200
    assert taker.parts == [("f", name, b"x")]
