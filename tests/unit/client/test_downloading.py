"""A download over connections that break."""

import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentd.client import ApiError, Client, FileChanged, Unreachable

SIZE = 10_000
STEP = 3000


class Holder:
    """Holds one file and cuts the first answers: after STEP bytes each, or, where told, before the first."""

    def __init__(self) -> None:
        self.content = os.urandom(SIZE)
        self.tagged = True
        self.cuts: list[int] = []
        self.asked: list[tuple[str | None, str | None]] = []
        self.content_range: str | None = None

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()}"'

    async def give(self, request: web.Request) -> web.StreamResponse:
        span, same = request.headers.get("Range"), request.headers.get("If-Range")
        self.asked.append((span, same))
        first = int(span[6:-1]) if span and same == self.tag else 0
        response = web.StreamResponse(status=206 if first else 200)
        if self.tagged:
            response.headers["ETag"] = self.tag
        if first:
            response.headers["Content-Range"] = self.content_range or f"bytes {first}-{SIZE - 1}/{SIZE}"
        response.content_length = len(self.content) - first
        await response.prepare(request)
        until = first + self.cuts.pop(0) if self.cuts else None
        await response.write(self.content[first:until])
        if until is not None and request.transport:
            request.transport.close()
        return response


@pytest.fixture
async def holder() -> Holder:
    return Holder()


@pytest.fixture
async def client(holder: Holder) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_get("/v1/file", holder.give)
    async with TestServer(app) as server:
        async with Client(str(server.make_url("")), retries=1) as client:
            yield client


async def test_a_cut_download_goes_on_where_it_broke(client: Client, holder: Holder) -> None:
    holder.cuts = [STEP, STEP, STEP]
    got = bytearray()
    assert await client.download("/f", got.extend) == SIZE
    assert got == holder.content
    assert holder.asked == [(None, None), *((f"bytes={n}-", holder.tag) for n in (STEP, 2 * STEP, 3 * STEP))]


async def test_a_file_that_changed_meanwhile_comes_from_its_start(client: Client, holder: Holder) -> None:
    holder.cuts = [STEP]
    got, lengths = bytearray(), []

    def restart() -> None:
        got.clear()

    def begins(length: int | None) -> None:
        lengths.append(length)
        holder.content = b"new"

    await client.download("/f", got.extend, begins=begins, restart=restart)
    assert (bytes(got), lengths) == (b"new", [SIZE, 3])


async def test_what_cannot_be_taken_back_ends_with_the_change(client: Client, holder: Holder) -> None:
    holder.cuts = [STEP]
    got = bytearray()

    def begins(length: int | None) -> None:
        holder.content = b"new"

    with pytest.raises(FileChanged, match="changed after 3000 bytes"):
        await client.download("/f", got.extend, begins=begins)
    assert len(got) == STEP


async def test_connections_that_bring_nothing_are_given_up(client: Client, holder: Holder) -> None:
    holder.cuts = [STEP, 0, 0, 0, 0]
    with pytest.raises(Unreachable, match="broke after 3000 bytes"):
        await client.download("/f", bytearray().extend)
    assert len(holder.asked) == 3


async def test_without_a_strong_tag_nothing_goes_on(client: Client, holder: Holder) -> None:
    holder.tagged, holder.cuts = False, [STEP]
    with pytest.raises(Unreachable, match="broke after 3000 bytes"):
        await client.download("/f", bytearray().extend)


async def test_other_bytes_than_were_asked_for_are_refused(client: Client, holder: Holder) -> None:
    holder.content_range, holder.cuts = "bytes 0-9/10", [STEP]
    with pytest.raises(ApiError, match="bytes from 3000 on"):
        await client.download("/f", bytearray().extend)


async def test_a_failure_to_write_is_not_repeated(client: Client, holder: Holder) -> None:
    def write(_: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await client.download("/f", write)
    assert len(holder.asked) == 1
