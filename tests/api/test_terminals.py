"""Terminals over their socket and over HTTP."""

import base64
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import UNIT, Daemon, StartDaemon
from tests.terminals import Frame, screen

PTY = "/v1/machines/m/pty"


def entries(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.call("GET", PTY).json()
    return found


async def test_the_first_frame_tells_of_the_terminal_and_the_last_of_its_end(shared: Daemon) -> None:
    async with screen(shared) as one:
        started = await one.open(cols=90, rows=20, command="stty size; exit 7")
        assert {**started, "session_id": "", "pid": 0, "exec_id": ""} == {
            "type": "pty_started",
            "id": "one",
            "session_id": "",
            "pid": 0,
            "exec_id": "",
            "cols": 90,
            "rows": 20,
            "cursor": 0,
        }
        assert started["session_id"]
        ended = await one.last()
        assert ended == {"type": "pty_exited", "id": "one", "session_id": started["session_id"], "exit_code": 7}
        assert (one.shown, one.text, one.cursor) == (b"20 90\r\n", "20 90\r\n", 7)


async def test_a_shell_reads_what_is_typed_and_has_the_given_variables_and_directory(shared: Daemon) -> None:
    async with screen(shared) as one:
        await one.open(envs={"NAME": "value"}, cwd="/workspace")
        await one.type("echo $NAME $(basename $(pwd))\n")
        await one.until(b"value workspace")
        await one.send("pty_input", data_base64=base64.b64encode(b"exit 3\n").decode())
        assert (await one.last())["exit_code"] == 3


async def test_text_never_cuts_a_character_and_bytes_are_exact(shared: Daemon) -> None:
    async with screen(shared) as one:
        await one.open(command="stty raw; printf '\\303'; sleep 0.2; printf '\\251\\377\\342\\202'")
        await one.last()
        assert (one.shown, one.text) == (b"\xc3\xa9\xff\xe2\x82", "é\ufffd\ufffd")


@pytest.mark.parametrize("by", ["session_id", "pid"])
async def test_a_terminal_outlives_its_socket_and_goes_on_where_nobody_has_read(shared: Daemon, by: str) -> None:
    async with screen(shared) as one:
        started = await one.open(command="echo first; read x; echo got $x; read y")
        await one.until(b"first\r\n")
    async with screen(shared) as other:
        again = await other.open("pty_connect", **{by: started[by]})
        assert (again["session_id"], again["cursor"]) == (started["session_id"], 7)
        await other.type("text\n")
        await other.until(b"got text")
        assert other.shown == b"text\r\ngot text\r\n"
        await other.send("pty_kill")
        assert (await other.last())["type"] == "pty_exited"


async def test_a_cursor_names_where_to_go_on_from_and_many_can_watch(shared: Daemon) -> None:
    async with screen(shared) as one, screen(shared) as other:
        started = await one.open(command="echo first; read x; echo second")
        await one.until(b"first\r\n")
        await other.open("pty_connect", session_id=started["session_id"], cursor=2)
        await one.type("\n")
        assert [(await each.last())["exit_code"] for each in (one, other)] == [0, 0]
        assert (one.shown, other.shown) == (b"first\r\n\r\nsecond\r\n", b"rst\r\n\r\nsecond\r\n")


async def test_who_comes_after_the_end_learns_how_it_was(shared: Daemon) -> None:
    async with screen(shared) as one:
        ident = (await one.open(command="echo out; exit 5"))["session_id"]
        await one.last()
    async with screen(shared) as late:
        await late.open("pty_connect", session_id=ident, cursor=0)
        assert (await late.last())["exit_code"] == 5
        assert late.shown == b"out\r\n"


async def test_output_that_is_gone_is_told_by_its_length(shared: Daemon) -> None:
    async with screen(shared) as one:
        ident = (await one.open(command="seq 400000; read x"))["session_id"]
        await one.until(b"400000\r\n")
    async with screen(shared) as late:
        await late.open("pty_connect", session_id=ident, cursor=10)
        frame = await late.frame()
        assert frame["skipped"] > 0
        assert frame["cursor"] == 10 + frame["skipped"] + len(late.shown)
        await late.send("pty_kill")
        await late.last()


async def test_a_reader_that_stops_reading_slows_nobody(shared: Daemon) -> None:
    async with screen(shared) as idle, screen(shared) as one:
        ident = (await idle.open(command="seq 2000000; echo do''ne"))["session_id"]
        await one.open("pty_connect", session_id=ident)
        assert (await one.last())["exit_code"] == 0
        assert one.shown.endswith(b"done\r\n")


async def test_a_program_that_reads_nothing_can_be_killed_from_where_is_typed(shared: Daemon) -> None:
    async with screen(shared) as one:
        await one.open(command="stty raw -echo; echo ready; sleep 1000")
        await one.until(b"ready")
        for _ in range(3):
            await one.type("x" * 250_000)
        await one.send("pty_kill")
        assert (await one.last())["type"] == "pty_exited"


async def test_much_input_in_one_frame_arrives(shared: Daemon) -> None:
    async with screen(shared) as one:
        await one.open(command="stty raw -echo; echo ready; head -c 3000000 | wc -c")
        await one.until(b"ready")
        await one.type("x" * 3_000_000)
        await one.last()
        assert b"3000000" in one.shown


async def test_the_socket_stays_open_after_what_it_does_not_understand(shared: Daemon) -> None:
    async with screen(shared) as one:
        for text in ("{", '{"type": "other"}', '{"type":"pty_start","id":"x","cols":0}', '{"type":"pty_input"}'):
            await one.socket.send_str(text)
            frame = await one.frame()
            assert (frame["type"], frame["code"], frame["message"][:15]) == (
                "error",
                "invalid_request",
                "invalid message",
            )
        await one.open(command="read x")
        await one.send("pty_input", data="a", data_base64="YQ==")
        assert (await one.last())["code"] == "invalid_request"
        await one.type("\n")
        assert (await one.last())["exit_code"] == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "pty_connect", "session_id": "pty_no"}, "terminal_not_found"),
        ({"type": "pty_connect", "pid": 1}, "terminal_not_found"),
        ({"type": "pty_connect"}, "invalid_request"),
        ({"type": "pty_connect", "pid": 1, "session_id": "x"}, "invalid_request"),
        ({"type": "pty_start", "cwd": "/no/such/place"}, "not_found"),
        ({"type": "pty_start", "cwd": "/workspace/.nullspace"}, "permission_denied"),
        ({"type": "pty_start", "user": "nobody-here"}, "unknown_user"),
        ({"type": "pty_start", "envs": {"a=b": "c"}}, "exec_failed"),
    ],
)
async def test_a_terminal_that_cannot_be_had_is_an_error_with_a_code(shared: Daemon, fields: Frame, code: str) -> None:
    async with screen(shared) as one:
        frame = await one.open(fields.pop("type"), **fields)
        assert (frame["type"], frame["id"], frame["code"]) == ("error", "one", code)


async def test_the_open_terminals_are_listed_described_resized_and_ended_over_http(shared: Daemon) -> None:
    async with screen(shared) as one:
        started = await one.open(command="trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done")
        await one.until(b"ready")
        entry = {name: started[name] for name in ("session_id", "pid", "cols", "rows", "exec_id")}
        assert entry in entries(shared)
        path = f"{PTY}/{started['session_id']}"
        assert shared.call("POST", path + "/resize", {"cols": 44, "rows": 33}).status == 204
        await one.until(b"33 44")
        assert shared.call("GET", path).json() == {**entry, "cols": 44, "rows": 33}
        assert shared.call("DELETE", path).status == 204
        assert (await one.last())["exit_code"] == 129
        assert entry["session_id"] not in [each["session_id"] for each in entries(shared)]
        assert shared.call("DELETE", path).status == 204


async def test_a_resize_over_the_socket_is_told_to_the_program(shared: Daemon) -> None:
    async with screen(shared) as one:
        await one.open(command="trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done")
        await one.until(b"ready")
        await one.send("pty_resize", cols=55, rows=22)
        await one.until(b"22 55")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/resize")])
def test_a_terminal_that_is_not_there_is_404(shared: Daemon, method: str, path: str) -> None:
    answer = shared.call(method, f"{PTY}/pty_no{path}", {"cols": 1, "rows": 1} if path else None)
    assert (answer.status, answer.json()["code"]) == (404, "terminal_not_found")


@pytest.mark.parametrize("size", [{"cols": 0, "rows": 1}, {"cols": 65536, "rows": 1}, {"cols": "a", "rows": 1}, {}])
def test_a_size_that_no_terminal_has_is_400(shared: Daemon, size: dict[str, object]) -> None:
    assert shared.call("POST", f"{PTY}/pty_no/resize", size).status == 400


async def test_the_end_of_the_daemon_is_told_apart_from_the_end_of_the_program(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    async with screen(daemon) as one:
        pid = (await one.open(command="echo ready; sleep 1000"))["pid"]
        await one.until(b"ready")
        daemon.signal(signal.SIGTERM)
        assert await one.last() == {"type": "closed", "code": 1012}
    assert daemon.wait() == 0
    assert not Path(f"/proc/{pid}").exists()


async def test_typing_is_not_answered_late(shared: Daemon) -> None:
    async with screen(shared) as one:
        await one.open(command="stty raw -echo; echo ready; cat")
        await one.until(b"ready")
        began = time.monotonic()
        for number in range(50):
            await one.type(f"[{number}]")
            await one.until(f"[{number}]".encode())
        assert time.monotonic() - began < 5 * UNIT


async def test_without_a_token_there_is_no_socket(shared: Daemon) -> None:
    async with aiohttp.ClientSession(shared.url) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/v1/machines/m/ws?channel=pty")
    assert refused.value.status == 401
