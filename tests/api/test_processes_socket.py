"""The WebSocket of commands, section 3.3, frame by frame."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentd.dialects.nullspace import exec_socket
from tests.conftest import ANSWER_SECONDS, UNIT, Daemon
from tests.processes import Shell, running, with_bob


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = with_bob(tmp_path_factory.mktemp("sockets"))
    yield daemon
    assert daemon.term() == 0


@pytest.fixture
def shell(sandbox: Daemon) -> Shell:
    return Shell(sandbox)


class Line:
    """A socket, as a client has it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind, "id": "i", **fields})

    async def hear(self) -> Any:
        return await self.socket.receive_json(timeout=ANSWER_SECONDS)

    async def until(self, kind: str) -> list[Any]:
        """All frames up to one of that type."""
        frames = [await self.hear()]
        while frames[-1]["type"] != kind:
            frames.append(await self.hear())
        return frames


@pytest.fixture
async def line(sandbox: Daemon) -> AsyncIterator[Line]:
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.ws_connect(f"{sandbox.url}/v1/machines/m/ws?channel=exec") as socket:
            yield Line(socket)


async def test_a_command_is_told_of_frame_by_frame(line: Line) -> None:
    await line.say("exec_start", command="echo one; sleep 0.1; echo two >&2; exit 4", shell=True)
    started, out, err, end = await line.until("exec_exit")
    assert (started["type"], started["id"]) == ("exec_started", "i")
    assert (out["type"], out["data"], err["type"], err["data"]) == ("exec_stdout", "one\n", "exec_stderr", "two\n")
    assert (end["id"], end["pid"], end["exit_code"], end["reason"]) == ("i", started["pid"], 4, "exited")


async def test_a_character_in_pieces_is_sent_whole_whatever_comes_between(line: Line) -> None:
    script = r"printf '\303'; sleep 0.05; echo x >&2; sleep 0.05; printf '\251'; printf '\342'"
    await line.say("exec_start", command=script, shell=True)
    frames = await line.until("exec_exit")
    assert "".join(frame["data"] for frame in frames if frame["type"] == "exec_stdout") == "é�"


async def test_input_is_taken_and_ended(line: Line) -> None:
    await line.say("exec_start", command="cat")
    pid = (await line.hear())["pid"]
    await line.say("exec_stdin", pid=pid, data="héllo")
    await line.say("exec_stdin_close", pid=pid)
    assert [frame.get("data") for frame in await line.until("exec_exit")] == ["héllo", None]


async def test_a_kill_ends_the_command(line: Line) -> None:
    await line.say("exec_start", command="sleep", args=["1000"])
    await line.say("exec_kill", pid=(await line.hear())["pid"])
    assert (await line.until("exec_exit"))[-1]["exit_code"] == 143


async def test_who_connects_gets_everything_from_the_beginning(line: Line, shell: Shell) -> None:
    pid = shell.begin("echo one; read l; echo two")
    await line.say("exec_connect", pid=pid)
    assert [(await line.hear())["type"], (await line.hear())["data"]] == ["exec_started", "one\n"]
    await line.say("exec_stdin", pid=pid, data="\n")
    assert (await line.until("exec_exit"))[0]["data"] == "two\n"


async def test_several_commands_share_a_socket(line: Line) -> None:
    for number in range(3):
        await line.say("exec_start", id=f"i{number}", command=f"sleep 0.1; echo {number}", shell=True)
    frames = [frame for _ in range(3) for frame in await line.until("exec_exit")]
    assert sorted((f["id"], f["data"]) for f in frames if "data" in f) == [(f"i{n}", f"{n}\n") for n in range(3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "invalid message"),
        ("[]", "invalid message"),
        ('{"type": "what"}', "invalid message"),
        ('{"type": "exec_start"}', "invalid message"),
        ('{"type": "exec_connect", "pid": 999999999}', "process_not_found"),
        ('{"type": "exec_start", "command": "no-such-program"}', "exec_failed"),
        ('{"type": "exec_start", "command": "true", "user": "nobody-here"}', "unknown_user"),
    ],
)
async def test_what_is_not_understood_is_answered_and_the_socket_goes_on(line: Line, text: str, words: str) -> None:
    await line.socket.send_str(text)
    answer = await line.hear()
    assert (answer["type"], words in answer["message"]) == ("error", True), answer
    await line.say("exec_start", command="true")
    assert (await line.until("exec_exit"))[-1]["exit_code"] == 0


async def test_time_that_is_up_is_an_error_before_the_exit(line: Line) -> None:
    await line.say("exec_start", command="echo said; sleep 1000", shell=True, timeout_secs=0.2)
    frames = await line.until("exec_exit")
    assert [frame["type"] for frame in frames] == ["exec_started", "exec_stdout", "error", "exec_exit"]
    assert (frames[2]["code"], frames[3]["reason"]) == ("exec_timeout", "timed_out")


async def test_a_client_that_leaves_leaves_its_commands_running(line: Line, shell: Shell) -> None:
    await line.say("exec_start", command="sleep 0.3; echo done", shell=True)
    pid = (await line.hear())["pid"]
    await line.socket.close()
    assert shell.wait(pid)["exit_code"] == 0
    assert shell.logs(pid)["stdout"] == "done\n"


async def test_an_unknown_channel_is_refused_before_the_upgrade(sandbox: Daemon) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {sandbox.token}"}) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{sandbox.url}/v1/ws?channel=other")
    assert refused.value.status == 400


async def test_at_the_daemon_s_end_the_end_is_not_taken_for_the_command_s(tmp_path: Path) -> None:
    with running(tmp_path / "ending") as daemon:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {daemon.token}"}) as session:
            async with session.ws_connect(f"{daemon.url}/v1/ws?channel=exec") as socket:
                line = Line(socket)
                await line.say("exec_start", command="sleep", args=["1000"])
                await line.hear()
                daemon.signal(15)
                assert (await line.hear())["code"] == "draining"
                assert (await socket.receive(ANSWER_SECONDS)).data == exec_socket.RESTART
        assert daemon.wait() == 0


@pytest.mark.slow
async def test_a_socket_that_has_nothing_more_to_tell_is_closed(line: Line) -> None:
    await line.say("exec_start", command="true")
    await line.until("exec_exit")
    closed = await line.socket.receive(exec_socket.IDLE_SECONDS + 20 * UNIT)
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1000)
