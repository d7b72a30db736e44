"""Terminals live on when the daemon is killed or replaced, and whoever comes back sees what was shown meanwhile."""

import os
from collections.abc import Callable

from tests.process.harness.manager import Managed, Manager
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive
from tests.terminals import Screen, lives, screen


async def started(one: Screen, command: str = "PS1= exec sh") -> dict[str, object]:
    return await one.open("pty_start", command=command, cols=100, rows=40)


async def test_a_shell_keeps_its_variables(daemon: Managed) -> None:
    async with screen(daemon) as one:
        found = await started(one)
        await one.type("kept=yes; echo re''ady\n")
        await one.until(b"ready")
    daemon.die()
    async with screen(daemon) as one:
        assert await one.open("pty_connect", session_id=found["session_id"], cursor=0) == {**found, "cursor": 0}
        await one.type("echo $kept it\n")
        await one.until(b"yes it")
        assert one.shown.count(b"ready") == 1


async def test_a_reader_goes_on_from_its_cursor_without_loss_or_repetition(daemon: Managed) -> None:
    count = "stty -echo -onlcr; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; sleep 1000"
    async with screen(daemon) as one:
        found = await started(one, count)
        await one.until(b"\n100\n")
        shown, cursor = one.shown, one.cursor
    daemon.die()
    async with screen(daemon) as one:
        await one.open("pty_connect", session_id=found["session_id"], cursor=cursor)
        await one.until(b"\n20000\n")
        assert (shown + one.shown).split() == [b"%d" % number for number in range(1, 20001)]


async def test_who_names_no_cursor_gets_what_nobody_has_seen(daemon: Managed) -> None:
    async with screen(daemon) as one:
        found = await started(one, "stty -echo; echo first; read line; echo second; sleep 1000")
        await one.until(b"first")
    daemon.die()
    async with screen(daemon) as one:
        await one.open("pty_connect", session_id=found["session_id"])
        await one.type("\n")
        await one.until(b"second")
        assert b"first" not in one.shown


async def test_its_size_is_what_it_was_and_can_be_changed(daemon: Managed) -> None:
    async with screen(daemon) as one:
        found = await started(one)
    daemon.die()
    path = f"/pty/{found['session_id']}"
    entry = Shell(daemon).call("GET", path).json()
    assert (entry["cols"], entry["rows"], entry["pid"]) == (100, 40, found["pid"])
    assert Shell(daemon).call("POST", path + "/resize", {"cols": 77, "rows": 33}).status == 204
    async with screen(daemon) as one:
        await one.open("pty_connect", session_id=found["session_id"])
        await one.type("stty size\n")
        await one.until(b"33 77")


async def test_it_is_ended_with_everything_in_it(daemon: Managed, manager: Manager) -> None:
    async with screen(daemon) as one:
        found = await started(one)
        await one.type("trap '' HUP; setsid sleep 1000 & sleep 1000 & echo re''ady\n")
        await one.until(b"ready")
    daemon.die()
    assert Shell(daemon).call("DELETE", f"/pty/{found['session_id']}").status == 204
    assert eventually(lambda: alive(daemon.root) == [])


async def test_who_comes_back_after_its_end_learns_how_it_ended(daemon: Managed) -> None:
    async with screen(daemon) as one:
        found = await started(one, "echo last words; exit 5")
        assert (await one.last())["exit_code"] == 5
    daemon.die()
    async with screen(daemon) as one:
        await one.open("pty_connect", session_id=found["session_id"], cursor=0)
        assert (await one.last())["exit_code"] == 5
        assert b"last words" in one.shown
    assert Shell(daemon).call("GET", "/pty").json() == []


async def test_its_end_is_noticed(daemon: Managed) -> None:
    async with screen(daemon) as one:
        found = await started(one)
    daemon.die()
    async with screen(daemon) as one:
        await one.open("pty_connect", session_id=found["session_id"])
        await one.type("exit 6\n")
        assert (await one.last())["exit_code"] in (6, 255)


async def test_the_store_holds_no_terminal_whose_program_has_ended(daemon: Managed, manager: Manager) -> None:
    async with screen(daemon) as one:
        await started(one, "sleep 1000 & echo $!")
        await one.last()
    assert eventually(lambda: not lives(int(one.shown.split()[0])))
    # The first of the two that is taken out hangs it up.
    assert eventually(lambda: not [name for name in manager.names() if name.endswith(("-o", "-t"))])


async def test_a_damaged_one_is_lost_and_ended(daemon: Managed, manager: Manager) -> None:
    async with screen(daemon) as one:
        await started(one)
    daemon.kill9()
    (file,) = next(manager.store[name] for name in manager.names() if name.startswith("agentd-t"))
    os.pwrite(file, b"\xff", os.pread(file, os.fstat(file).st_size, 0).index(b"pty_"))
    daemon.restart()
    assert eventually(lambda: alive(daemon.root) == [])
    assert [name for name in manager.names() if name.startswith("agentd-t")] == []


async def test_an_orderly_end_ends_it(daemon: Managed, manager: Manager) -> None:
    async with screen(daemon) as one:
        await started(one)
    assert daemon.term() == 0
    assert (alive(daemon.root), manager.names()) == ([], [])


async def test_it_is_kept_beyond_an_orderly_end_where_that_is_asked_for(manage: Callable[..., Managed]) -> None:
    daemon = manage("--keep-processes")
    async with screen(daemon) as one:
        found = await started(one)
        await one.type("kept=yes; echo re''ady\n")
        await one.until(b"ready")
    assert daemon.term() == 0
    daemon.restart("--processes-grace", "0.1")
    async with screen(daemon) as one:
        await one.open("pty_connect", session_id=found["session_id"])
        await one.type("echo $kept it\n")
        await one.until(b"yes it")
    assert daemon.term() == 0
