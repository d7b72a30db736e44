"""Readers of output: at any time, from any place, at any pace, and nobody else notices."""

import asyncio
import errno
import gc
import hashlib
import os
import resource
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from agentd.core.eventlog import Gap, Stream
from agentd.processes import output, spill
from agentd.processes.output import MEMORY, Chunk
from agentd.processes.process import Process
from agentd.processes.registry import Processes
from agentd.processes.terms import Order
from tests.conftest import UNIT
from tests.unit.processes.conftest import MakeProcesses

MIB = 1 << 20
OUT, ERR = Stream.STDOUT, Stream.STDERR
PAD = "x" * 60
ALTERNATE = f"i=0; while [ $i -lt 4000 ]; do echo out{PAD} $i; echo err{PAD} $i >&2; i=$((i+1)); done"


def sh(script: str, **more: object) -> Order:
    return Order(("sh", "-c", script), **more)  # type: ignore[arg-type]


async def all_of(process: Process, cursor: int = 0) -> list[Chunk | Gap]:
    async with aclosing(process.output.follow(cursor)) as pieces:
        return [piece async for piece in pieces]


def joined(pieces: list[Chunk | Gap], stream: Stream | None = None) -> bytes:
    return b"".join(p.content for p in pieces if isinstance(p, Chunk) and stream in (None, p.stream))


@pytest.mark.parametrize("size", [1, MEMORY - 1, MEMORY, MEMORY + 1, 3 * MIB + 7])
async def test_every_byte_of_any_value_arrives(processes: Processes, top: Path, size: int) -> None:
    (top / "workspace/source").write_bytes(content := os.urandom(size))
    process = await processes.start(sh("cat source"))
    assert joined(await all_of(process)) == content
    assert await process.output.first(OUT, size + 1) == content


async def test_both_streams_arrive_in_their_order_also_beyond_memory(processes: Processes) -> None:
    process = await processes.start(sh(ALTERNATE))
    pieces = await all_of(process)
    for stream, word in ((OUT, "out"), (ERR, "err")):
        assert joined(pieces, stream).decode() == "".join(f"{word}{PAD} {n}\n" for n in range(4000))
    assert process.output.log.end > MEMORY


async def test_a_late_reader_gets_everything_from_its_cursor_on(processes: Processes) -> None:
    process = await processes.start(sh("echo hello; echo world >&2"))
    await process.wait()
    first = await all_of(process)
    assert (joined(first, OUT), joined(first, ERR)) == (b"hello\n", b"world\n")
    for cursor in range(13):
        assert joined(await all_of(process, cursor)) == joined(first)[cursor:]


async def test_a_reader_sees_output_as_it_is_written(processes: Processes) -> None:
    process = await processes.start(sh("echo now; read line; echo $line", stdin="pipe"))
    async with aclosing(process.output.follow()) as pieces:
        assert joined([await anext(pieces)]) == b"now\n"
        await process.write(b"then\n")
        assert joined([await anext(pieces)]) == b"then\n"


async def test_a_reader_that_stops_slows_nobody(make_processes: MakeProcesses) -> None:
    processes = make_processes(output_bytes=4 * MIB)
    process = await processes.start(sh("head -c 40M /dev/zero"))
    async with aclosing(process.output.follow()) as stuck:
        await anext(stuck)
        other = await asyncio.wait_for(all_of(process), 20 * UNIT)
        assert process.ending is not None
        assert sum(len(p.content) if isinstance(p, Chunk) else p.length for p in other) == 40 * MIB


async def test_what_was_dropped_is_said(make_processes: MakeProcesses) -> None:
    processes = make_processes(output_bytes=1 * MIB, answer_bytes=100_000)
    process = await processes.start(sh("seq 1000000"))
    await process.wait()
    truth = "".join(f"{n}\n" for n in range(1, 1_000_001)).encode()
    pieces = await all_of(process)
    (gap,) = (piece for piece in pieces if isinstance(piece, Gap))
    assert joined(pieces) == truth[: gap.start] + truth[gap.start + gap.length :]
    assert gap.length == process.output.log.dropped
    assert gap.start >= 100_000
    assert await process.output.first(OUT, len(truth)) == truth[: gap.start]
    assert await process.output.read_stream(OUT, gap.start, 1) == gap


async def test_a_process_that_is_silent_for_long_costs_no_reads(processes: Processes) -> None:
    process = await processes.start(sh("sleep 0.3"))
    before = time.process_time()
    await process.wait()
    assert time.process_time() - before < 0.2


async def test_a_full_disk_loses_output_and_not_the_process(
    make_processes: MakeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    processes = make_processes()
    monkeypatch.setattr(spill.os, "pwrite", full)
    process = await processes.start(sh("head -c 2M /dev/zero; echo end; exit 3"))
    ending = await asyncio.wait_for(process.wait(), 20 * UNIT)
    assert ending is not None
    assert ending.code == 3
    pieces = await all_of(process)
    assert sum(p.length for p in pieces if isinstance(p, Gap)) == 2 * MIB + 4 == process.output.log.end


async def test_who_follows_is_let_go_at_the_daemon_s_end(processes: Processes) -> None:
    process = await processes.start(sh("echo now; sleep 1000"))
    async with aclosing(process.output.follow()) as pieces:
        assert joined([await anext(pieces)]) == b"now\n"
        processes.hang_up()
        assert [piece async for piece in pieces] == []


@pytest.mark.slow
async def test_a_gib_of_output_costs_bounded_memory_and_the_loop_turns_on(processes: Processes) -> None:
    before, longest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    process = await processes.start(sh("head -c 1G /dev/zero | tr '\\0' x"))
    while process.running:
        begun = time.monotonic()
        await process.wait(0.01)
        longest = max(longest, time.monotonic() - begun)
    assert process.output.log.end == 1 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert longest < 3 * UNIT
    digest = hashlib.sha256(await process.output.first(OUT, MIB)).hexdigest()
    assert digest == hashlib.sha256(b"x" * MIB).hexdigest()


async def test_one_who_sets_the_pace_loses_nothing(make_processes: MakeProcesses) -> None:
    processes = make_processes(output_bytes=1 * MIB)
    process = await processes.start(sh("seq 1000000"))
    async with aclosing(process.output.follow(paced=True)) as pieces:
        content = b"".join([piece.content async for piece in pieces if isinstance(piece, Chunk)])
    assert content == "".join(f"{n}\n" for n in range(1, 1_000_001)).encode()


async def test_one_who_sets_the_pace_and_stops_is_not_waited_for(
    make_processes: MakeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PACE_SECONDS", 0.05)
    processes = make_processes(output_bytes=1 * MIB)
    process = await processes.start(sh("seq 1000000"))
    async with aclosing(process.output.follow(paced=True)) as stuck:
        await anext(stuck)
        assert await process.wait(20 * UNIT) is not None


@pytest.mark.parametrize("left", ["", "sleep 0.2 & "])
async def test_the_space_of_what_is_forgotten_is_free_at_its_end(make_processes: MakeProcesses, left: str) -> None:
    def files() -> int:
        """Open ones without a name."""
        links = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return sum(".nullspace/" in str(link.readlink()) for link in links if link.is_symlink())

    processes = make_processes(keep_finished=0)
    await processes.run(sh("true"))
    before = files()
    gc.disable()
    try:
        await processes.run(sh(f"{left}head -c 2M /dev/zero"))
        async with asyncio.timeout(10 * UNIT):
            while files() > before:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
