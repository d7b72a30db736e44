"""The door: what is decoded for a handler, what its results become, and that every failure has an answer."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, Struct

from agentd.errors import AgentError, Conflict, RateLimited
from agentd.http.endpoint import Call, Dialect, Endpoint, FileResult, TextResult
from agentd.http.router import Router
from tests.unit.http.conftest import OpenDoor


class Params(Struct):
    name: str
    depth: Annotated[int, Meta(ge=0)] = 1
    tag: list[str] = []
    deep: bool = False


class Named(Struct):
    name: str
    size: int = 0


class Optional(Struct):
    size: int = 7


async def show(call: Call) -> object:
    return call.params


async def echo(call: Call) -> object:
    return call.data


GET = Endpoint("GET", "/show/{name}", "show", show, params=Params)
POST = Endpoint("POST", "/echo", "echo", echo, body=Named, status=201)
DEFAULTS = Endpoint("POST", "/defaults", "defaults", echo, body=Optional)


def raising(error: BaseException) -> Endpoint:
    async def handler(_: Call) -> object:
        raise error

    return Endpoint("GET", "/raise", "raise", handler)


def giving(result: object, status: int = 200) -> Endpoint:
    async def handler(_: Call) -> object:
        return result

    return Endpoint("GET", "/give", "give", handler, status=status)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/show/x", b'{"name":"x","depth":1,"tag":[],"deep":false}'),
        ("/show/a%2Fb?depth=2&deep=true&unknown=1", b'{"name":"a/b","depth":2,"tag":[],"deep":true}'),
        ("/show/x?tag=1&tag=2&name=y", b'{"name":"x","depth":1,"tag":["1","2"],"deep":false}'),
        ("/show/x?tag=a+b%2B", b'{"name":"x","depth":1,"tag":["a b+"],"deep":false}'),
        ("http://sandbox/show/x#y", b'{"name":"x","depth":1,"tag":[],"deep":false}'),
        ("/show/%ff", b'{"name": "\\udcff", "depth": 1, "tag": [], "deep": false}'),
    ],
)
async def test_path_and_query_are_decoded(open_door: OpenDoor, target: str, body: bytes) -> None:
    assert (await (await open_door(GET)).ask(f"GET {target}"))[::2] == (200, body)


@pytest.mark.parametrize(
    "target", ["/show/x?depth=no", "/show/x?depth=-1", "/show/x?depth=1&depth=2", "/show/x?" + "a=1&" * 300]
)
async def test_a_query_that_does_not_fit_is_an_invalid_request(open_door: OpenDoor, target: str) -> None:
    status, headers, body = await (await open_door(GET)).ask(f"GET {target}")
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert b'"code":"invalid_request"' in body


@pytest.mark.parametrize("target", ["/show/x/", "/show//", "/show", "//show/x", "/SHOW/x", "/", "/show/x/y"])
async def test_no_path_is_normalised_or_redirected(open_door: OpenDoor, target: str) -> None:
    assert (await (await open_door(GET)).ask(f"GET {target}"))[0] == 404


async def test_head_and_other_methods_need_a_row(open_door: OpenDoor) -> None:
    door = await open_door(GET)
    for method in ("DELETE", "OPTIONS", "PROPFIND"):
        status, headers, _ = await door.ask(f"{method} /show/x")
        assert (status, headers["allow"]) == (405, "GET")
    peer = await door.connect()
    await peer.send("HEAD /show/x", b"", "Connection: close")
    assert (await peer.line()).split()[1] == "405"


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"name":"x","size":1,"newer":true}', b'{"name":"x","size":1}'),
        (b'{"name":"\\udcff"}', b'{"name": "\\udcff", "size": 0}'),
        ('{"name":"h\u00e9"}'.encode(), '{"name":"h\u00e9","size":0}'.encode()),
    ],
)
async def test_json_is_decoded_and_names_survive(open_door: OpenDoor, body: bytes, answer: bytes) -> None:
    found = await (await open_door(POST)).ask("POST /echo", body, "Content-Type: application/json; charset=utf-8")
    assert found[::2] == (201, answer)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"name":1}', b'{"name":"x","size":"1"}', b'{"name":"\xff"}'),
        *(b"[" * 100_000, b'{"name":' * 100_000, b'{"name":"\\udcff","size":NaN}', b'{"name":"\\udcff"'),
    ],
)
async def test_json_that_does_not_fit_is_an_invalid_request(open_door: OpenDoor, body: bytes) -> None:
    status, _, answer = await (await open_door(POST)).ask("POST /echo", body)
    assert status == 400
    assert b'"code":"invalid_request"' in answer
    assert b"Traceback" not in answer


async def test_no_json_at_all_stands_for_the_defaults(open_door: OpenDoor) -> None:
    assert (await (await open_door(DEFAULTS)).ask("POST /defaults"))[2] == b'{"size":7}'


async def test_json_has_a_limit(open_door: OpenDoor) -> None:
    assert (await (await open_door(POST, json_bytes=9)).ask("POST /echo", b'{"name":""}'))[0] == 413


@pytest.mark.parametrize(
    "header", ["Content-Type: text/plain", "Content-Type: application/jsonx", "Content-Encoding: gzip"]
)
async def test_a_body_of_another_kind_is_415(open_door: OpenDoor, header: str) -> None:
    assert (await (await open_door(POST)).ask("POST /echo", b'{"name":"x"}', header))[0] == 415


async def test_nothing_has_the_status_of_its_row_and_text_keeps_its_type(open_door: OpenDoor) -> None:
    for status in (200, 204):
        assert (await (await open_door(giving(None, status=status))).ask("GET /give"))[::2] == (status, b"")
    status, headers, body = await (await open_door(giving(TextResult("h\u00e9", "text/x")))).ask("GET /give")
    assert (status, headers["content-type"], body) == (200, "text/x", "h\u00e9".encode())


async def test_a_file_is_sent_whole_and_closed(open_door: OpenDoor, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    status, headers, body = await (await open_door(giving(FileResult(fd, 3_000_000, 0.0, "\u00e9\udcff")))).ask(
        "GET /give"
    )
    assert (status, len(body), headers["last-modified"]) == (200, 3_000_000, "Thu, 01 Jan 1970 00:00:00 GMT")
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9%EF%BF%BD"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_head_has_the_length_and_not_the_file(open_door: OpenDoor, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)

    async def handler(_: Call) -> object:
        return FileResult(os.open(tmp_path / "f", os.O_RDONLY), 10, 0.0, "f")

    peer = await (await open_door(Endpoint("HEAD", "/give", "give", handler))).connect()
    await peer.send("HEAD /give", b"", "Connection: close")
    text = await peer.everything()
    assert "Content-Length: 10\r\n" in text
    assert text.endswith("\r\n\r\n")


async def test_a_file_that_shrinks_ends_the_connection_early(open_door: OpenDoor, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)
    result = FileResult(os.open(tmp_path / "f", os.O_RDONLY), 20, 0.0, "f")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await (await open_door(giving(result))).ask("GET /give")


async def test_an_error_is_a_problem_with_its_facts(open_door: OpenDoor) -> None:
    status, headers, body = await (await open_door(raising(RateLimited("slowly", retry_after=1.2)))).ask("GET /raise")
    assert (status, headers["retry-after"]) == (429, "2")
    for part in (b'"code":"rate_limit_exceeded"', b'"retryable":true', b'"detail":"slowly"', b'"retry_after":1.2'):
        assert part in body


async def test_a_dialect_shapes_its_own_errors(open_door: OpenDoor) -> None:
    def render(error: AgentError, request_id: str, mount: str) -> dict[str, str]:
        return {"oops": error.code, "id": request_id, "at": mount}

    door = await open_door(raising(Conflict("no")), render=render)
    _, headers, body = await door.ask("GET /in/7/raise", b"", "X-Request-Id: r-1")
    assert (body, headers["content-type"]) == (b'{"oops":"conflict","id":"r-1","at":"/in/{mount}"}', "application/json")
    assert b'"oops":"not_found"' in (await door.ask("GET /in/7/nowhere"))[2]


async def test_the_unforeseen_is_500_and_tells_nothing(open_door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    status, _, body = await (await open_door(raising(KeyError("secret")))).ask("GET /raise")
    assert status == 500
    assert b"secret" not in body
    logged = next(record for record in caplog.records if record.exc_info)
    assert vars(logged)["fields"]["instance"].encode() in body


async def test_what_no_json_can_say_is_500_too(open_door: OpenDoor) -> None:
    assert (await (await open_door(giving(object()))).ask("GET /give"))[0] == 500


@pytest.mark.parametrize(("given", "kept"), [("r-1.2:3", True), ("x" * 129, False), ('a"b', False), ("a b", False)])
async def test_a_sane_request_id_comes_back_and_another_is_replaced(
    open_door: OpenDoor, given: str, kept: bool
) -> None:
    _, headers, _ = await (await open_door(GET)).ask("GET /show/x", b"", f"X-Request-Id: {given}")
    assert (headers["x-request-id"] == given) is kept
    assert headers["x-request-id"]


async def test_a_handler_whose_client_leaves_is_cancelled(open_door: OpenDoor) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(_: Call) -> object:
        begun.set()
        try:
            return await asyncio.Event().wait()
        finally:
            cancelled.set()

    peer = await (await open_door(Endpoint("GET", "/wait", "wait", wait))).connect()
    await peer.send("GET /wait")
    await begun.wait()
    peer.reset()
    await cancelled.wait()


async def test_at_the_limit_the_longest_idle_connection_makes_room(open_door: OpenDoor) -> None:
    door = await open_door(GET, connections=2)
    first, second = await door.connect(), await door.connect()
    for peer in (first, second):
        await peer.send("GET /show/x")
        await peer.answer()
    assert (await door.ask("GET /show/x"))[0] == 200
    assert await first.ended()


async def test_a_connection_too_many_is_told_to_come_back(open_door: OpenDoor) -> None:
    begun = asyncio.Event()

    async def wait(_: Call) -> object:
        begun.set()
        return await asyncio.Event().wait()

    door = await open_door(Endpoint("GET", "/wait", "wait", wait), connections=1)
    busy = await door.connect()
    await busy.send("GET /wait")
    await begun.wait()
    status, headers, _ = await (await door.connect()).answer()
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")


async def test_an_idle_connection_ends_after_the_keep_alive_timeout(open_door: OpenDoor) -> None:
    peer = await (await open_door(GET, keepalive_timeout=0.1)).connect()
    await peer.send("GET /show/x")
    assert (await peer.answer())[0] == 200
    assert await peer.ended()


async def test_numbers_are_kept_by_endpoint_and_never_by_path(open_door: OpenDoor) -> None:
    door = await open_door(GET)
    await door.ask("GET /show/private")
    await door.ask("GET /nowhere")
    text = door.metrics.render()
    assert 'agentd_request_seconds_count{dialect="test",endpoint="show"} 1' in text
    assert 'agentd_errors_total{dialect="test",code="not_found"} 1' in text
    assert "private" not in text


def test_two_rows_with_one_method_and_path_refuse_to_start() -> None:
    other = Endpoint("GET", "/show/{other}", "other", show)
    with pytest.raises(ValueError, match=r"two rows are GET /show/\{other\}: show and other"):
        Router((Dialect("a", ("",), (GET,)), Dialect("b", ("",), (other,))))
