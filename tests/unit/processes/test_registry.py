"""What the room promises of a process from its start to the day it is forgotten."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from agentd import errors
from agentd.core.eventlog import Stream
from agentd.linux.spawn import Limits
from agentd.processes.process import signal_number
from agentd.processes.registry import Processes
from agentd.processes.terms import Order
from tests.conftest import UNIT
from tests.descriptors import nothing_stays_open
from tests.process.harness.leases import leased
from tests.terminals import lives
from tests.unit.processes.conftest import BOB, MakeProcesses


def sh(script: str, **more: object) -> Order:
    return Order(("sh", "-c", script), **more)  # type: ignore[arg-type]


async def test_streams_are_apart_and_the_status_is_exact(processes: Processes) -> None:
    done = await processes.run(sh("echo out; echo err >&2; exit 7"))
    assert (done.stdout, done.stderr, done.truncated) == (b"out\n", b"err\n", False)
    assert (done.ending.code, done.ending.signal, done.ending.reason) == (7, 0, "exited")


async def test_a_signal_is_told_by_name_and_as_a_shell_counts_it(processes: Processes) -> None:
    ending = (await processes.run(sh("kill -SEGV $$"))).ending
    assert (ending.code, ending.signal_name, ending.reason) == (128 + signal.SIGSEGV, "SIGSEGV", "signalled")


async def test_a_user_s_process_is_the_user_s_in_a_clean_environment(processes: Processes, top: Path) -> None:
    os.environ["AGENTD_SECRET"] = "secret"
    done = await processes.run(sh("id -u; env; pwd", user="bob", env={"MINE": "1"}))
    del os.environ["AGENTD_SECRET"]
    uid, *variables, cwd = done.stdout.decode().splitlines()
    names = dict(line.split("=", 1) for line in variables)
    assert (uid, cwd) == (str(BOB), f"{top}/workspace")
    assert names.pop("PWD", cwd) == cwd
    assert set(names) == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "CONFIGURED", "MINE"}
    assert (names["HOME"], names["USER"], names["SHELL"]) == (f"{top}/home/bob", "bob", "/bin/bash")


async def test_a_user_s_process_may_open_its_own_streams_again(processes: Processes) -> None:
    script = "echo one >/dev/stdout; echo two | tee /dev/stderr; cat /dev/stdin"
    done = await processes.run(sh(script, user="bob", stdin=b"three\n"))
    assert (done.stdout, done.stderr) == (b"one\ntwo\nthree\n", b"two\n")


@pytest.mark.parametrize(
    ("cwd", "error"),
    [
        ("missing", errors.NotFound),
        ("file", errors.NotADirectory),
        ("/workspace/.nullspace", errors.PathReserved),
        ("link", errors.PathReserved),
    ],
)
async def test_a_directory_that_is_none_is_refused(
    processes: Processes, top: Path, cwd: str, error: type[errors.AgentError]
) -> None:
    (top / "workspace/file").touch()
    (top / "workspace/link").symlink_to(".nullspace")
    with pytest.raises(error):
        await processes.start(sh("true", cwd=cwd))


async def test_a_grandchild_that_holds_the_pipes_does_not_hold_the_call(processes: Processes) -> None:
    begun = time.monotonic()
    done = await processes.run(sh("echo before; sleep 100 & echo after"))
    assert time.monotonic() - begun < 10 * UNIT
    assert done.stdout == b"before\nafter\n"


async def test_a_grandchild_that_never_stops_writing_does_not_hold_the_call(processes: Processes) -> None:
    process = await processes.start(sh("yes & sleep 0.3; exit 3"))
    ending = await process.wait(20 * UNIT)
    assert ending is not None
    assert ending.code == 3
    await process.stop(0)


async def test_what_a_grandchild_writes_later_is_kept_too(processes: Processes) -> None:
    process = await processes.start(sh("(sleep 0.2; echo later) & echo now"))
    await process.wait()
    assert await process.output.first(Stream.STDOUT, 99) == b"now\n"
    assert await process.output.await_stream(Stream.STDOUT, 4, 99) is None  # the end was told of
    while process.output.log.end < 10:
        await asyncio.sleep(0.01)
    assert await process.output.first(Stream.STDOUT, 99) == b"now\nlater\n"


async def test_time_that_is_up_ends_the_whole_tree_and_keeps_the_output(processes: Processes) -> None:
    done = await processes.run(sh("echo said; setsid sleep 1000 & sleep 1000", timeout=0.2 * UNIT))
    assert (done.ending.reason, done.stdout) == ("timed_out", b"said\n")
    assert done.ending.code in (128 + signal.SIGTERM, 128 + signal.SIGKILL)


async def test_time_that_is_up_is_told_when_nothing_is_left(processes: Processes) -> None:
    script = "trap '' TERM; sleep 1000 & trap - TERM; echo $!; exec sleep 1000"
    done = await processes.run(sh(script, timeout=0.2 * UNIT))
    assert done.ending.reason == "timed_out"
    assert not lives(int(done.stdout))


async def test_one_that_is_deaf_to_a_request_is_killed_after_the_grace(processes: Processes) -> None:
    process = await processes.start(sh("trap '' TERM; echo; while :; do sleep 1; done"))
    await process.output.await_stream(Stream.STDOUT, 0, 1)
    await process.stop()
    assert process.ending is not None
    assert process.ending.signal_name == "SIGKILL"


async def test_output_beyond_a_limit_ends_it_for_that_reason(processes: Processes) -> None:
    done = await processes.run(sh("yes", output_limit=100_000))
    assert done.ending.reason == "output_limit"
    assert len(done.stdout) > 100_000


async def test_input_arrives_and_ends(processes: Processes) -> None:
    content = os.urandom(1 << 20)
    done = await processes.run(Order(("cat",), stdin=content))
    assert done.stdout == content


async def test_one_that_does_not_read_its_input_ends_all_the_same(processes: Processes) -> None:
    done = await processes.run(Order(("true",), stdin=bytes(1 << 20)))
    assert done.ending.code == 0


async def test_input_that_is_sent_again_is_taken_once(processes: Processes) -> None:
    process = await processes.start(Order(("cat",), stdin="pipe"))
    assert await process.write(b"hello ", 0) == 6
    assert await process.write(b"hello wor", 0) == 9
    assert await process.write(b"rld", 8) == 11
    with pytest.raises(errors.Conflict) as refused:
        await process.write(b"!", 12)
    assert refused.value.facts["offset"] == 11
    await process.close_input()
    await process.wait()
    assert await process.output.first(Stream.STDOUT, 99) == b"hello world"


async def test_input_waits_for_a_slow_reader_and_no_longer_than_asked(processes: Processes) -> None:
    process = await processes.start(sh("sleep 1000", stdin="pipe"))
    with pytest.raises(errors.RequestTimeout) as refused:
        await process.write(bytes(1 << 20), patience=0.1 * UNIT)
    assert 0 < refused.value.facts["offset"] == process.input_bytes < 1 << 20


async def test_after_the_end_no_input_is_taken(processes: Processes) -> None:
    process = await processes.start(sh("exit 0", stdin="pipe"))
    await process.wait()
    with pytest.raises(errors.Conflict):
        await process.write(b"x")
    await process.close_input()


async def test_a_wait_ends_at_its_deadline(processes: Processes) -> None:
    process = await processes.start(sh("sleep 1000"))
    assert await process.wait(0.05) is None
    assert process.running


async def test_who_asks_again_with_the_same_key_gets_the_same_process(processes: Processes) -> None:
    first, second = await asyncio.gather(*(processes.start(sh("echo x"), key="k") for _ in range(2)))
    await first.wait()
    assert first is second is await processes.start(sh("echo x"), key="k")
    with pytest.raises(errors.KeyReused):
        await processes.start(sh("echo y"), key="k")


async def test_a_key_whose_start_failed_can_be_used_again(processes: Processes, top: Path) -> None:
    with pytest.raises(errors.NotFound):
        await processes.start(sh("true", cwd="late"), key="k")
    (top / "workspace/late").mkdir()
    assert (await (await processes.start(sh("true", cwd="late"), key="k")).wait()) is not None


async def test_a_cancelled_start_leaves_the_process_where_it_can_be_found(processes: Processes) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await processes.start(sh("sleep 1000"))
    while not processes.list():
        await asyncio.sleep(0.01)
    assert processes.list()[0].running


async def test_no_more_run_at_once_than_may(make_processes: MakeProcesses) -> None:
    processes = make_processes(max_running=2)
    held = [await processes.start(sh("sleep 1000")) for _ in range(2)]
    with pytest.raises(errors.CapacityExceeded):
        await processes.start(sh("true"))
    await held[0].stop(0)
    await processes.run(sh("true"))


async def test_of_those_that_ended_the_newest_are_kept_and_none_for_ever(make_processes: MakeProcesses) -> None:
    processes = make_processes(keep_finished=2, retention=0.3 * UNIT)
    started = [await processes.start(sh("true")) for _ in range(4)]
    for process in started:
        await process.wait()
    assert len(processes.list()) == 2
    while processes.list():
        await asyncio.sleep(0.01)
    with pytest.raises(errors.ProcessNotFound):
        processes.get(started[-1].pid)


async def test_what_fails_to_start_leaves_no_fd_behind(processes: Processes) -> None:
    await processes.run(sh("true"))
    with nothing_stays_open():
        for _ in range(5):
            with pytest.raises(errors.ProgramNotFound):
                await processes.start(Order(("no-such-program",), stdin="pipe"))
        await processes.run(sh("true"))
        for process in processes.list():
            process.close()


async def test_the_server_s_limits_bind_every_request(make_processes: MakeProcesses) -> None:
    processes = make_processes(most=Limits(open_files=500))
    done = await processes.run(sh("ulimit -n", limits=Limits(open_files=1000)))
    assert done.stdout == b"500\n"


async def test_a_process_that_eats_memory_fails_alone(processes: Processes) -> None:
    done = await processes.run(sh("head -c 1G /dev/zero | tail", limits=Limits(memory_bytes=256 << 20)))
    assert done.ending.code != 0
    assert (await processes.run(sh("echo fine"))).stdout == b"fine\n"


async def test_what_was_left_running_may_write_on_after_its_command_is_forgotten(
    make_processes: MakeProcesses, top: Path
) -> None:
    processes = make_processes(keep_finished=0)
    await processes.run(sh("(sleep 0.3; head -c 1M /dev/zero; echo x && touch survived) &"))
    assert processes.list() == []
    async with asyncio.timeout(20 * UNIT):
        while not (top / "workspace/survived").exists():
            await asyncio.sleep(0.01)


async def test_tags_choose(processes: Processes) -> None:
    one = await processes.start(sh("true", tags={"job": "1", "kind": "x"}))
    await processes.start(sh("true", tags={"job": "2", "kind": "x"}))
    assert processes.list({"job": "1"}) == [one]
    assert len(processes.list({"kind": "x"})) == 2


async def test_the_end_of_the_room_is_the_end_of_all(make_processes: MakeProcesses) -> None:
    processes = make_processes(keep_finished=0)
    left = await processes.start(sh("setsid sleep 1000 & echo $!"))
    held = await processes.start(sh("sleep 1000"))
    await left.wait()
    orphan = int(await left.output.first(Stream.STDOUT, 99))
    await processes.close()
    assert held.ending is not None
    assert not Path(f"/proc/{orphan}").exists() or "Z" in Path(f"/proc/{orphan}/stat").read_text()
    with pytest.raises(errors.Unavailable):
        await processes.start(sh("true"))


async def test_the_end_of_the_room_is_the_end_of_a_start_that_is_held_up(processes: Processes, top: Path) -> None:
    with leased(BOB, top / "workspace", "program"):
        start = asyncio.get_running_loop().create_task(processes.start(Order(("./program",), user="bob")))
        await asyncio.sleep(0.1 * UNIT)
        assert processes.running == 1
        async with asyncio.timeout(10 * UNIT):
            await processes.end()
        with pytest.raises(errors.Unavailable, match="being ended"):
            await start
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


async def test_many_that_are_slow_to_end_do_not_hold_up_the_end_of_another(make_processes: MakeProcesses) -> None:
    processes = make_processes(grace=1.5 * UNIT)
    stubborn = [await processes.start(sh("trap '' TERM; echo; while :; do sleep 1000; done")) for _ in range(16)]
    for process in stubborn:
        await anext(process.output.follow())
    other = await processes.start(sh("sleep 1000"))
    stops = [asyncio.get_running_loop().create_task(process.stop()) for process in stubborn]
    await asyncio.sleep(0.1 * UNIT)
    began = time.monotonic()
    await other.stop()
    assert time.monotonic() - began < 1.3 * UNIT
    await asyncio.gather(*stops)


async def test_64_at_once_all_tell_their_own_status(processes: Processes) -> None:
    done = await asyncio.gather(*(processes.run(sh(f"echo {n}; exit {n}", user="bob")) for n in range(64)))
    assert [(int(one.stdout), one.ending.code) for one in done] == [(n, n) for n in range(64)]


async def test_usage_is_told(processes: Processes) -> None:
    usage = (await processes.run(sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1"))).ending.usage
    assert usage.seconds > 0.1
    assert 0 < usage.user_seconds + usage.system_seconds < 60


@pytest.mark.parametrize("name", ["TERM", "sigterm", "15", 15])
def test_a_signal_has_several_names(name: str | int) -> None:
    assert signal_number(name) == signal.SIGTERM


@pytest.mark.parametrize("name", ["NONE", "", "0", 0, -1, 99, "1e3"])
def test_what_is_no_signal_is_refused(name: str | int) -> None:
    with pytest.raises((ValueError, KeyError)):
        signal_number(name)
