"""What is promised of shell sessions, of bash and of sh."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from agentd.background import Background
from agentd.core.eventlog import Stream
from agentd.errors import CapacityExceeded, Conflict, InvalidRequest, KeyReused, SessionEnded, SessionNotFound
from agentd.linux.places import Places
from agentd.processes.output import Chunk
from agentd.processes.registry import Processes
from agentd.processes.session import Command, Input, Session, SessionLimits
from agentd.processes.sessions import Opening, Sessions
from agentd.processes.shell import Kind
from tests.conftest import UNIT

LIMITS = SessionLimits(max_open=3, keep_ended=2, keep_commands=5, max_waiting=3)
Run = Callable[..., Awaitable[tuple[int | None, bytes, bytes]]]


@pytest.fixture
async def sessions(processes: Processes, places: Places, background: Background) -> AsyncIterator[Sessions]:
    room = Sessions(processes, places, LIMITS, background.spawn)
    yield room
    for session in room.list():
        await session.stop()
    await room.close()


@pytest.fixture(params=["bash", "sh"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def session(sessions: Sessions, kind: Kind) -> Session:
    return await sessions.open(Opening(shell=kind))


@pytest.fixture
def run(session: Session) -> Run:
    """``await run(text, ...)``: exit code, stdout, stderr."""

    async def ran(text: str, given: bytes = b"", **named: object) -> tuple[int | None, bytes, bytes]:
        return await result(session, session.run(text, Input(given), **named))  # type: ignore[arg-type]

    return ran


async def result(session: Session, command: Command) -> tuple[int | None, bytes, bytes]:
    assert await command.wait(20 * UNIT), "it does not end"
    stdout, stderr = [(await session.read(command, stream, 1 << 24))[0] for stream in Stream]
    return command.exit_code, stdout, stderr


async def test_directory_variables_functions_and_arguments_stay(run: Run) -> None:
    await run("cd /var; x=1; f() { echo f$1; }; set -- a b; umask 027; trap 'echo trapped' USR1")
    code, stdout, stderr = await run("pwd; f $x; echo $#; umask; kill -USR1 $$; (exit 4)")
    assert (code, stdout, stderr) == (4, b"/var\nf1\n2\n0027\ntrapped\n", b"")


async def test_a_command_sees_the_status_of_the_one_before(run: Run) -> None:
    await run("false")
    assert await run("echo $?") == (0, b"1\n", b"")
    assert await run("echo $?") == (0, b"0\n", b"")


async def test_streams_are_apart_and_exact(run: Run) -> None:
    code, stdout, stderr = await run("printf 'a\\0b\\377'; printf 'c\\n\\n' >&2; return 9")
    assert (code, stdout, stderr) == (9, b"a\0b\xff", b"c\n\n")


@pytest.mark.parametrize("text", ["if", "echo 'open", "echo $(", "f() {", "done", "case x in"])
async def test_a_command_that_does_not_parse_fails_alone(run: Run, text: str) -> None:
    code, stdout, stderr = await run(text)
    assert (code, stdout) == (2, b"")
    assert b"yntax" in stderr or b"EOF" in stderr or b"nterminated" in stderr
    assert await run("echo on") == (0, b"on\n", b"")


@pytest.mark.parametrize(
    "text", ["break", "continue", "no-such-command", "cd /no/such/place", "return 3", ". /no/file"]
)
async def test_what_fails_in_a_command_does_not_end_the_shell(run: Run, text: str) -> None:
    await run(text)
    assert await run("echo on") == (0, b"on\n", b"")


async def test_here_documents_and_many_lines_are_one_command(run: Run) -> None:
    assert await run("cat <<E\none\n\ntwo\nE\nfor i in 1 2\ndo echo $i\ndone") == (0, b"one\n\ntwo\n1\n2\n", b"")


async def test_a_command_may_be_a_megabyte_long(run: Run) -> None:
    text = "a" * (1 << 20)
    assert await run(f"x='{text}'; echo ${{#x}}") == (0, b"1048576\n", b"")


async def test_much_output_is_whole(run: Run) -> None:
    code, stdout, _ = await run("seq 300000")
    assert code == 0
    assert stdout == b"".join(b"%d\n" % number for number in range(1, 300001))


async def test_a_command_reads_its_own_input_and_then_its_end(run: Run) -> None:
    assert await run("cat; echo end") == (0, b"end\n", b"")
    assert await run("read x; echo $x", b"first\nleft over\n") == (0, b"first\n", b"")
    assert await run("cat; echo end", b"second\n") == (0, b"second\nend\n", b"")


async def test_input_can_follow_while_the_command_runs(session: Session) -> None:
    command = session.run("while read x; do echo got $x; done; echo end", Input(b"one\n", open=True))
    await command.begun()
    await session.write(command, b"two\n")
    await session.close_input(command)
    assert await result(session, command) == (0, b"got one\ngot two\nend\n", b"")
    with pytest.raises(Conflict):
        await session.write(command, b"three\n")


async def test_what_a_background_job_writes_later_is_the_sessions_and_not_the_commands(
    session: Session, run: Run
) -> None:
    assert await run("{ read x < /dev/null; sleep 0.3; echo late; } & echo now") == (0, b"now\n", b"")
    async with asyncio.timeout(20 * UNIT), aclosing(session.output.follow()) as pieces:
        shown = b""
        async for piece in pieces:
            shown += piece.content if isinstance(piece, Chunk) else b""
            if b"late" in shown:
                break
    assert await run("echo next") == (0, b"next\n", b"")


async def test_a_background_job_does_not_hold_its_command(run: Run) -> None:
    began = time.monotonic()
    assert (await run("sleep 1000 & echo on"))[1] == b"on\n"
    assert time.monotonic() - began < 10 * UNIT


async def test_redirections_of_the_shell_stay(run: Run) -> None:
    await run("exec 3>&1 4</dev/null")
    assert await run("echo to three >&3; cat <&4") == (0, b"to three\n", b"")


async def test_a_command_that_uses_the_shells_own_fds_harms_nothing(run: Run, kind: Kind) -> None:
    for number in (61, 62, 63) if kind == "bash" else (7, 8, 9):
        await run(f"exec {number}>/dev/null; echo x >&{number}")
    assert await run("echo on") == (0, b"on\n", b"")


async def test_a_shell_that_closes_every_fd_it_has_ends_its_session_and_hangs_nobody(sessions: Sessions) -> None:
    session = await sessions.open(Opening(shell="bash"))
    await result(session, session.run('for i in {3..99}; do eval "exec $i>&-"; done; sleep 1000'))
    assert session.ending is not None


@pytest.mark.parametrize(
    ("text", "code"),
    [("exit 3", 3), ("set -e; false; echo not", 1), ("exec sh -c 'exit 5'", 5), ("kill -9 $$", 137)],
)
async def test_a_shell_that_ends_ends_its_session_clearly(session: Session, text: str, code: int) -> None:
    last, waiting = session.run("echo out; " + text), session.run("echo never")
    assert await result(session, last) == (code, b"out\n", b"")
    assert await waiting.wait(20 * UNIT)
    assert (waiting.state, waiting.exit_code) == ("dropped", None)
    with pytest.raises(SessionEnded):
        session.run("echo never")


async def test_an_unset_variable_under_set_u_ends_the_command_or_the_session_and_nothing_hangs(run: Run) -> None:
    code, stdout, stderr = await run("set -u; echo $no_such_variable; echo not")
    assert (code in (1, 2), stdout) == (True, b"")
    assert b"no_such_variable" in stderr


async def test_commands_wait_for_their_turn(session: Session) -> None:
    commands = [session.run(f"sleep 0.05; echo {number} $x; x={number}") for number in range(3)]
    assert [(await result(session, command))[1] for command in commands] == [b"0\n", b"1 0\n", b"2 1\n"]


async def test_only_so_many_wait(session: Session) -> None:
    first = session.run("sleep 0.2")
    await first.begun()
    for _ in range(LIMITS.max_waiting):
        session.run("true")
    with pytest.raises(CapacityExceeded):
        session.run("true")


async def test_the_same_key_is_the_same_command(session: Session) -> None:
    command = session.run("echo once", key="k")
    assert session.run("echo once", key="k") is command
    with pytest.raises(KeyReused):
        session.run("echo twice", key="k")


async def test_a_timeout_ends_the_session_and_keeps_the_output(session: Session) -> None:
    command = session.run("echo before; sleep 1000", timeout=0.3)
    code, stdout, _ = await result(session, command)
    assert (code in (137, 143), stdout, command.timed_out) == (True, b"before\n", True)
    with pytest.raises(SessionEnded):
        session.run("echo never")


async def test_a_command_is_followed_to_its_end_and_no_further(session: Session) -> None:
    await result(session, session.run("echo before"))
    command = session.run("(while :; do echo noise; sleep 0.01; done) & for i in 1 2; do echo $i; sleep 0.05; done")
    async with asyncio.timeout(20 * UNIT), aclosing(session.follow(command)) as pieces:
        shown = b"".join([piece.content async for piece in pieces if isinstance(piece, Chunk)])
    assert shown == (await result(session, command))[1]
    assert [line for line in shown.split() if line != b"noise"] == [b"1", b"2"]


@pytest.mark.parametrize("text", ["a\0b", "\udfff" * 3, "x" * (3 << 20)])
async def test_what_no_shell_can_be_told_is_refused(session: Session, text: str) -> None:
    with pytest.raises(InvalidRequest):
        session.run(text)


async def test_a_user_runs_it_and_may_open_its_own_streams_again(sessions: Sessions, kind: Kind) -> None:
    session = await sessions.open(Opening(shell=kind, user="nobody", env={"X": "y"}))
    command = session.run("id -un; echo $X; tee /dev/stderr", Input(b"in\n"))
    assert await result(session, command) == (0, b"nobody\ny\nin\n", b"in\n")


async def test_deleting_one_leaves_nothing_of_it(sessions: Sessions, session: Session) -> None:
    command = session.run("trap '' TERM; setsid sleep 1000 & sleep 1000")
    await command.begun()
    await asyncio.sleep(0.2 * UNIT)
    await sessions.delete(session.id)
    assert command.exit_code == 128 + signal.SIGKILL
    with pytest.raises(SessionNotFound):
        sessions.get(session.id)


async def test_ids_are_unique_and_so_many_are_open(sessions: Sessions) -> None:
    for ident in ("a", "b", "c"):
        await sessions.open(Opening(ident))
    with pytest.raises(Conflict):
        await sessions.open(Opening("a"))
    with pytest.raises(CapacityExceeded):
        await sessions.open(Opening("d"))
    with pytest.raises(InvalidRequest):
        await sessions.open(Opening("../d"))


async def test_a_session_that_rests_ends_unless_something_runs_in_it(
    processes: Processes, places: Places, background: Background
) -> None:
    room = Sessions(processes, places, replace_limits(idle_timeout=0.2), background.spawn)
    resting, busy = await room.open(Opening("resting")), await room.open(Opening("busy"))
    await result(busy, busy.run("sleep 1000 &"))
    await asyncio.wait_for(resting.process.wait(), 20 * UNIT)
    await asyncio.sleep(0.5)
    assert busy.process.running
    await busy.stop()
    await room.close()


def replace_limits(**values: float) -> SessionLimits:
    return SessionLimits(**{**{name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__}, **values})  # type: ignore[arg-type]
