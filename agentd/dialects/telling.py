"""How what a command writes is told: as text that is whole, and exactly where it is none."""

from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agentd.core.eventlog import Gap, Stream
from agentd.core.text import whole
from agentd.errors import ExecTimeout
from agentd.processes.output import Chunk
from agentd.processes.process import Process
from agentd.processes.terms import Ending


class Written(Struct, kw_only=True):
    """The beginning of both streams. The ``…_base64`` are there where the bytes are no UTF-8; truncated: there is more
    than one answer takes, and a stream has it."""

    stdout: str
    stderr: str
    truncated: bool
    stdout_base64: str | UnsetType = UNSET
    stderr_base64: str | UnsetType = UNSET


async def written(process: Process, limit: int) -> Written:
    """What its streams begin with. While it runs a character that is not whole yet is left for the next time."""
    text: dict[str, Any] = {}
    for stream in Stream:
        content = await process.output.first(stream, limit)
        if process.running or len(content) < process.output.log.lengths[stream]:
            content = content[: whole(content)]
        text[stream.value], exact = lossy(content)
        if exact is not None:
            text[f"{stream.value}_base64"] = exact
    lengths = process.output.log.lengths
    return Written(truncated=max(lengths.values()) > limit or bool(process.output.log.dropped), **text)


def lossy(content: bytes) -> tuple[str, str | None]:
    """As text, and in base64 where that says less than the bytes."""
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return content.decode(errors="replace"), b64encode(content).decode()


async def timed_out(process: Process, ending: Ending, limit: int) -> ExecTimeout:
    """The error, with everything that there is to say."""
    output = await written(process, limit)
    facts: dict[str, Any] = {"pid": process.pid, "exit_code": ending.code, "signal": ending.signal_name}
    facts |= {"stdout": output.stdout, "stderr": output.stderr, "truncated": output.truncated}
    return ExecTimeout(f"the command was ended after {process.order.timeout:g} s", **facts)


class Told(msgspec.Struct, frozen=True):
    """A piece of a stream: its bytes as text, in base64 too where they are none. next: the cursor after it."""

    stream: Stream
    offset: int
    text: str
    exact: str | None
    next: int


def tell(process: Process, cursor: int, *, mend: bool = False, paced: bool = False) -> AsyncGenerator[Told | Gap, None]:
    """Everything from ``cursor`` on. No character is cut in two, unless the other stream comes in between.

    mend: not then either, for those who take text alone; their cursors may leave out a part of a character.
    paced: see `Output.pace`."""
    return told(process.output.follow(cursor, paced=paced), mend=mend)


async def told(pieces: AsyncGenerator[Chunk | Gap, None], *, mend: bool = False) -> AsyncGenerator[Told | Gap, None]:
    """As `tell`, of any chunks that follow each other."""
    cut: dict[Stream, Chunk] = {}
    async with aclosing(pieces) as chunks:
        async for chunk in chunks:
            for stream in [*cut]:
                if isinstance(chunk, Gap) or not (mend or stream is chunk.stream):
                    yield _told(cut.pop(stream))
            if isinstance(chunk, Gap):
                yield chunk
                continue
            if (before := cut.pop(chunk.stream, None)) is not None:
                start = chunk.cursor - len(before.content)
                chunk = Chunk(chunk.stream, start, before.offset, before.content + chunk.content)
            length = whole(chunk.content)
            if length < len(chunk.content):
                rest = Chunk(chunk.stream, chunk.cursor + length, chunk.offset + length, chunk.content[length:])
                cut[chunk.stream] = rest
            if length:
                yield _told(Chunk(chunk.stream, chunk.cursor, chunk.offset, chunk.content[:length]))
    for rest in cut.values():
        yield _told(rest)


def _told(chunk: Chunk) -> Told:
    return Told(chunk.stream, chunk.offset, *lossy(chunk.content), chunk.next)
