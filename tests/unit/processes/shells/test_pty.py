"""What is promised of a terminal, whoever is at it."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentd.background import Background
from agentd.errors import CapacityExceeded, Conflict, InvalidRequest, ProgramNotFound, TerminalNotFound, UnknownUser
from agentd.linux.places import Places
from agentd.processes.pty import Opening, Terminal, TerminalLimits, Terminals
from agentd.processes.registry import Processes
from tests.conftest import UNIT
from tests.descriptors import nothing_stays_open
from tests.terminals import lives

KEPT = 1 << 16
BASH = ("bash", "--norc")


@pytest.fixture
async def terminals(processes: Processes, places: Places, background: Background) -> AsyncIterator[Terminals]:
    limits = TerminalLimits(max_open=4, keep_ended=2, scrollback_bytes=KEPT)
    room = Terminals(processes, places, limits, background.spawn)
    yield room
    for terminal in room.list():
        await terminal.kill()
    await room.close()


def script(text: str) -> Opening:
    return Opening(argv=("sh", "-c", text))


async def seen(terminal: Terminal, text: bytes, cursor: int = 0) -> bytes:
    """What it shows from ``cursor`` on, until ``text`` is there."""
    found = b""
    async with asyncio.timeout(10 * UNIT):
        async for piece in terminal.output.follow(cursor):
            found += piece.content
            if text in found:
                return found
    raise AssertionError(f"it ended without {text!r}: {found!r}")


async def ended(terminal: Terminal) -> tuple[int, bytes]:
    """Its exit code, and everything that it showed."""
    async with asyncio.timeout(20 * UNIT):
        shown = b"".join([piece.content async for piece in terminal.output.follow(0)])
    assert terminal.ending is not None
    return terminal.ending.code, shown


async def test_the_program_has_it_as_its_controlling_terminal_and_knows_its_size(terminals: Terminals) -> None:
    terminal = await terminals.open(Opening(90, 20, ("sh", "-c", "stty size </dev/tty; tty; echo $TERM")))
    code, shown = await ended(terminal)
    assert code == 0
    assert shown.startswith(b"20 90\r\n/dev/pts/")
    assert shown.endswith(b"\r\nxterm-256color\r\n")


async def test_control_c_ends_what_is_in_the_foreground_and_not_the_shell(terminals: Terminals) -> None:
    terminal = await terminals.open(Opening(argv=BASH))
    await terminal.write(b"sleep 1000; echo it was $?\n")
    await seen(terminal, b"1000")
    await asyncio.sleep(0.2 * UNIT)
    await terminal.write(b"\x03echo still he''re\nexit 7\n")
    code, shown = await ended(terminal)
    assert code == 7
    assert b"still here" in shown


async def test_a_job_is_stopped_and_brought_back(terminals: Terminals) -> None:
    terminal = await terminals.open(Opening(argv=BASH))
    await terminal.write(b"sh -c 'echo be''gun; read x; echo got $x'\n")
    await seen(terminal, b"begun")
    await terminal.write(b"\x1a")
    await seen(terminal, b"Stopped")
    await terminal.write(b"fg\n")
    await terminal.write(b"text\n")
    assert b"got text" in await seen(terminal, b"got text")


async def test_what_is_typed_is_not_shown_where_the_program_does_not_want_it(terminals: Terminals) -> None:
    terminal = await terminals.open(script("stty -echo; echo pass:; read x; stty echo; echo got ${#x}"))
    await seen(terminal, b"pass:")
    await terminal.write(b"secret\n")
    code, shown = await ended(terminal)
    assert (code, b"secret" in shown, b"got 6" in shown) == (0, False, True)


async def test_the_program_is_told_of_another_size(terminals: Terminals) -> None:
    terminal = await terminals.open(script("trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done"))
    await seen(terminal, b"ready")
    terminal.resize(101, 41)
    assert b"41 101" in (await ended(terminal))[1]
    assert (terminal.cols, terminal.rows) == (101, 41)


@pytest.mark.parametrize(("text", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("true", 0)])
async def test_the_exit_code_is_that_of_the_program_or_of_its_signal(
    terminals: Terminals, text: str, code: int
) -> None:
    assert (await ended(await terminals.open(script(text))))[0] == code


async def test_the_last_output_of_a_program_that_ends_is_there(terminals: Terminals) -> None:
    _, shown = await ended(await terminals.open(script("seq 9000")))
    assert shown == b"".join(b"%d\r\n" % number for number in range(1, 9001))


async def test_a_terminal_ends_with_its_program_not_with_what_that_left_behind(terminals: Terminals) -> None:
    terminal = await terminals.open(script("setsid sleep 1000 & exit 3"))
    assert (await ended(terminal))[0] == 3
    await terminal.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may hang up a terminal (vhangup(2))")
async def test_a_program_that_hangs_up_its_own_terminal_is_awaited(terminals: Terminals) -> None:
    text = "import ctypes, signal, time; signal.signal(1, signal.SIG_IGN); print('out', flush=True)"
    text += "; time.sleep(0.1); ctypes.CDLL(None).vhangup(); time.sleep(0.3); raise SystemExit(5)"
    terminal = await terminals.open(Opening(argv=(sys.executable, "-S", "-c", text)))
    await seen(terminal, b"out")
    await asyncio.sleep(0.2 * UNIT)
    await terminal.write(b"nobody reads this")
    assert (await ended(terminal))[0] == 5


async def test_bytes_pass_as_they_are(terminals: Terminals) -> None:
    every = bytes(range(256))
    terminal = await terminals.open(script("stty raw -echo; echo ready; head -c 256"))
    await seen(terminal, b"ready\n")
    await terminal.write(every)
    assert (await ended(terminal))[1] == b"ready\n" + every


async def test_input_waits_for_a_program_that_does_not_read_it(terminals: Terminals) -> None:
    terminal = await terminals.open(script("stty raw -echo; echo ready; sleep 0.3; head -c 1000000 | wc -c"))
    await seen(terminal, b"ready\n")
    await asyncio.wait_for(terminal.write(b"x" * 1_000_000), 20 * UNIT)
    assert b"1000000" in (await ended(terminal))[1]


async def test_who_types_is_let_go_when_the_terminal_ends(terminals: Terminals) -> None:
    terminal = await terminals.open(script("stty raw -echo; echo ready; sleep 1000"))
    await seen(terminal, b"ready\n")
    async with asyncio.timeout(20 * UNIT), asyncio.TaskGroup() as group:
        group.create_task(terminal.write(b"x" * 1_000_000))
        await asyncio.sleep(0.1 * UNIT)
        await terminal.kill()


async def test_killing_one_leaves_nothing_of_it(terminals: Terminals) -> None:
    text = "trap '' HUP TERM; setsid sh -c 'echo $$; sleep 1000' & sleep 0.2; echo ready; sleep 1000"
    terminal = await terminals.open(script(text))
    shown = await seen(terminal, b"ready")
    await terminal.kill()
    assert not lives(int(shown.split()[0]))
    assert (await ended(terminal))[0] == 137


async def test_a_shell_at_its_prompt_is_gone_at_once_when_it_is_killed(terminals: Terminals) -> None:
    terminal = await terminals.open(Opening(argv=BASH))
    await terminal.write(b"echo rea''dy\n")
    await seen(terminal, b"ready")
    await terminal.kill()
    assert (await ended(terminal))[0] == 129


async def test_only_the_newest_of_much_output_is_kept(terminals: Terminals) -> None:
    terminal = await terminals.open(script("yes 0123456789"))
    async with asyncio.timeout(20 * UNIT):
        async for piece in terminal.output.follow(0):
            if piece.next > 4 * KEPT:
                break
    oldest = terminal.output.read(0)
    assert oldest is not None
    assert terminal.output.end - oldest.cursor <= KEPT


async def test_a_user_gets_a_shell_and_owns_the_terminal(terminals: Terminals) -> None:
    terminal = await terminals.open(Opening(user="nobody"))
    await terminal.write(b"id -un; stat -c 'own''er %U' $(tty); exit\n")
    assert b"owner nobody" in (await ended(terminal))[1]
    assert os.path.basename(terminal.process.order.argv[0]) in ("bash", "sh")


async def test_a_login_shell_can_be_asked_for(terminals: Terminals) -> None:
    plain, login = [await terminals.open(Opening(login=login)) for login in (False, True)]
    for terminal in (plain, login):
        await terminal.write(b"shopt -q login_shell && echo it i''s || echo it isn''t; exit\n")
    assert b"it isnt" in (await ended(plain))[1]
    assert b"it is\r\n" in (await ended(login))[1]


@pytest.mark.skipif(not shutil.which("vim"), reason="there is no vim")
async def test_an_editor_works_in_it(terminals: Terminals, tmp_path: Path) -> None:
    file = tmp_path / "file"
    terminal = await terminals.open(Opening(argv=("vim", "-T", "dumb", "-u", "NONE", "-n", str(file))))
    await seen(terminal, b"file")
    await terminal.write(b"ihello\x1b:wq\r")
    assert (await ended(terminal))[0] == 0
    assert file.read_text() == "hello\n"


@pytest.mark.parametrize(
    ("opening", "error"),
    [(Opening(argv=("no-such-program",)), ProgramNotFound), (Opening(user="nobody-at-all"), UnknownUser)],
)
async def test_one_that_cannot_be_opened_leaves_no_fd(
    terminals: Terminals, opening: Opening, error: type[Exception]
) -> None:
    await ended(await terminals.open(script("true")))
    with nothing_stays_open(), pytest.raises(error):
        await terminals.open(opening)


async def test_an_id_is_that_of_one_open_terminal_at_a_time(terminals: Terminals) -> None:
    mine = Opening(argv=("sh", "-c", "read x"), ident="mine")
    first = await terminals.open(mine)
    with pytest.raises(Conflict):
        await terminals.open(mine)
    await first.write(b"\n")
    await ended(first)
    assert await terminals.open(mine) is terminals.get("mine")
    with pytest.raises(InvalidRequest):
        await terminals.open(Opening(ident="../mine"))


async def test_so_many_can_be_open_and_so_many_ended_ones_are_remembered(terminals: Terminals) -> None:
    opened = [await terminals.open(script("read x")) for _ in range(4)]
    with pytest.raises(CapacityExceeded):
        await terminals.open(script("true"))
    for terminal in opened:
        await terminal.write(b"\n")
        await ended(terminal)
    await asyncio.sleep(0.05 * UNIT)
    assert terminals.list() == []
    assert terminals.of(opened[3].process.pid) is terminals.get(opened[3].id)
    with pytest.raises(TerminalNotFound):
        terminals.get(opened[0].id)
