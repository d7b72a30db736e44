"""Answers of many parts: a JSON array, or lines of JSON where the client would rather have those."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from agentd.http.codec import encode
from agentd.http.endpoint import Call
from agentd.http.events import NDJSON, negotiate

JSON = "application/json"
_encoder = msgspec.json.Encoder()


def wants_lines(call: Call) -> bool:
    """Whether the client likes NDJSON better than JSON."""
    return negotiate(call.headers.get("Accept", ""), (JSON, NDJSON)) == NDJSON


async def array(batches: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """One JSON array of those in ``batches``, which are closed with it."""
    before = b"["
    async with aclosing(batches):
        async for batch in batches:
            yield before + batch[1:-1]
            before = b","
    yield b"[]" if before == b"[" else b"]"


def lines(values: Sequence[object]) -> bytes:
    """A line of JSON for each."""
    try:
        return _encoder.encode_lines(values)
    except UnicodeEncodeError:
        return b"".join(encode(value) + b"\n" for value in values)
