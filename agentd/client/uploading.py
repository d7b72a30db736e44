"""A whole upload: what is missing goes out in concurrent parts, and faults are survived."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter

from agentd.client.calls import ApiError, Calls, Session, Unreachable, decoded
from agentd.client.source import PIECE, Source, SourceChanged, feed
from agentd.linux.threads import LONG, in_thread

STALL_SECONDS = 120.0


class SourceDiffers(Exception):
    """The source is not the one this upload was opened for."""


class Uploaded(msgspec.Struct, frozen=True):
    """A finished upload: the session as completed, and the SHA-256 (hex) of what it holds."""

    session: Session
    sha256: str


class Observer:
    """What an upload tells while it runs: override what is of interest. Called on the loop, so it must be quick."""

    def opened(self, session: Session) -> None:
        """The session was created, or found again by a resume."""

    def sending(self, number: int, sent: int) -> None:
        """`sent` bytes of this part's body have gone out, counted from the start of the part."""

    def accepted(self, number: int, session: Session) -> None:
        """The daemon has the part for good."""

    def failed(self, number: int, error: Exception) -> None:
        """An attempt at this part failed; it is repeated."""

    def completing(self) -> None:
        """Every part is there; the daemon checks and publishes."""


class _Pieces(aiohttp.Payload):
    """A range of a file as a request body: read piece by piece, so memory does not grow with the part."""

    _autoclose = True

    def __init__(self, fd: int, first: int, length: int, sent: Callable[[int], None]) -> None:
        super().__init__(None)
        self._fd = fd
        self._first = first
        self._size: int = length
        self._sent = sent

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a range of a file is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        # Else aiohttp repeats the request by itself when a kept connection breaks, without asking what arrived.
        self._consumed = True
        done = 0
        while done < self._size:
            piece = await in_thread(os.pread, self._fd, min(PIECE, self._size - done), self._first + done)
            if not piece:
                raise SourceChanged("the source became shorter while it was being uploaded")
            await writer.write(piece)
            done += len(piece)
            self._sent(done)


class Uploading(Calls):
    async def upload(
        self,
        source: Source,
        target: str,
        *,
        conflict: str = "merge",
        user: str | None = None,
        concurrency: int | None = None,
        resume: str | None = None,
        progress: Observer | None = None,
    ) -> Uploaded:
        """Uploads a source to a path in the sandbox, or goes on with the upload `resume`.

        concurrency: parts in flight; at most, and by default, what the daemon allows.
        Raises ApiError, Unreachable, SourceChanged, SourceDiffers. Unless the source changed, the upload stays and can
        be resumed; `progress.opened` tells its id.
        """
        watch = progress or Observer()
        if resume:
            session = await self.upload_status(resume)
            _check_same(source, session)
        else:
            session = await self.create_upload(
                target,
                source.size,
                kind=source.kind,
                source_kind=source.source_kind,
                conflict=conflict,
                user=user,
                sha256=source.sha256,
            )
        watch.opened(session)
        try:
            digest = await self._send_missing(source, session, concurrency, watch, expect=bool(resume))
            if source.changed():
                raise SourceChanged
            watch.completing()
            return Uploaded(await self.complete_upload(session.upload_id, digest), digest)
        except (ApiError, SourceChanged) as error:
            if not source.changed():
                raise
            with suppress(ApiError, Unreachable):
                await self.abort_upload(session.upload_id)
            raise SourceChanged(f"{source.name} changed while it was being uploaded; the upload was aborted") from error

    async def _send_missing(
        self, source: Source, session: Session, concurrency: int | None, watch: Observer, *, expect: bool
    ) -> str:
        """Sends the parts from the lowest missing one on and returns the whole SHA-256, computed meanwhile."""
        numbers = iter([n for n in range(session.part_count) if not session.has(n)])

        async def worker() -> None:
            for number in numbers:
                await self._deliver(source, session, number, watch, expect=expect)

        workers = max(1, min(concurrency or session.max_concurrency, session.max_concurrency))
        try:
            async with asyncio.TaskGroup() as group:
                digest = group.create_task(_whole_sha256(source))
                for _ in range(workers):
                    group.create_task(worker())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return digest.result()

    async def _deliver(self, source: Source, session: Session, number: int, watch: Observer, *, expect: bool) -> None:
        first, length = session.span(number)

        async def attempt(again: bool) -> Session:
            if again:
                now = decoded(await self._once("GET", f"/uploads/{quote(session.upload_id)}"), Session)
                if now.has(number):
                    return now
            digest = hashlib.sha256()
            await in_thread(feed, digest, source.fd, first, length)
            async with asyncio.timeout(STALL_SECONDS) as patience:

                def sent(count: int) -> None:
                    patience.reschedule(asyncio.get_running_loop().time() + STALL_SECONDS)
                    watch.sending(number, count)

                body = _Pieces(source.fd, first, length, sent)
                return await self.put_part(
                    session.upload_id, number, body, sha256=digest.hexdigest(), expect=expect or again
                )

        watch.accepted(number, await self._repeat(attempt, failed=lambda error: watch.failed(number, error)))


async def _whole_sha256(source: Source) -> str:
    if source.sha256:
        return source.sha256
    digest = hashlib.sha256()
    step = 16 * PIECE
    for first in range(0, source.size, step):
        await in_thread(feed, digest, source.fd, first, min(step, source.size - first), pool=LONG)
    return digest.hexdigest()


def _check_same(source: Source, session: Session) -> None:
    if source.size != session.content_length:
        raise SourceDiffers(
            f"{source.name} has {source.size} bytes, the upload was opened for {session.content_length} bytes"
        )
    if session.whole_checksum_sha256 and source.sha256 not in (None, session.whole_checksum_sha256):
        raise SourceDiffers(f"{source.name} has other content than the one the upload was opened for")
