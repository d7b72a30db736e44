"""How a part gets in: who may write it, and what happens to the one who did before. The rules are those of a table:

=============================================  ===================================================================
the part is accepted, same digest declared     answered without reading the body
accepted, no digest to compare                 the body is hashed, not written: equal is fine, other is PartConflict
somebody writes it                             that writer is asked to let go and awaited; if it had the whole body
                                               this one becomes a repetition
a completion counts the parts                  not now
all turns are taken                            waits for one, `TURN_SECONDS` at most
=============================================  ===================================================================
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from agentd.core.parts import Digests, Offer
from agentd.errors import InvalidPartChecksum, RateLimited, RequestTooLarge
from agentd.failpoints import hit
from agentd.linux.threads import in_thread
from agentd.uploads import journal
from agentd.uploads.staging import BOOT_ID, Hashes, Sink, reserve
from agentd.uploads.upload import Body, Upload, Writer

TURN_SECONDS = 30.0


class Intake:
    """parts_at_once: that bring bytes at a time, over all uploads; each upload has its own limit besides.
    free_floor: bytes that stay free."""

    def __init__(self, parts_at_once: int, free_floor: int) -> None:
        self._slots = asyncio.Semaphore(parts_at_once)
        self._free_floor = free_floor

    async def put(self, upload: Upload, number: int, body: Body, sha256: bytes | None) -> None:
        """Returns when part ``number`` is accepted, by this body or by an equal one before."""
        if not await self._repeated(upload, number, body, sha256):
            await self._write(upload, number, body, sha256)

    async def _repeated(self, upload: Upload, number: int, body: Body, sha256: bytes | None) -> bool:
        """Whether the part is there already; False when it has to be written and nobody else does."""
        while True:
            upload.check_open()
            match upload.parts.offer(number, body.length, sha256):
                case Offer.STORED:
                    await body.discard()
                    return True
                case Offer.COMPARE:
                    hashes = Hashes(sha256=sha256 is not None)
                    await self._receive(upload, number, body, hashes.write)
                    digests = _checked(number, hashes, sha256)
                    upload.check_open()
                    upload.parts.same(number, digests)
                    return True
            if upload.sealed:
                raise RateLimited("a completion is counting the parts: repeat", retry_after=1)
            if (writer := upload.writers.get(number)) is None:
                return False
            writer.let_go()
            await writer.done.wait()

    @asynccontextmanager
    async def _turn(self, upload: Upload) -> AsyncIterator[None]:
        """For bytes that are there: a client that brings none has no turn, and keeps nobody from one."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await upload.slots.acquire()
                try:
                    await self._slots.acquire()
                except BaseException:
                    upload.slots.release()
                    raise
        except TimeoutError:
            raise RateLimited("too many parts are being sent at once: repeat", retry_after=1) from None
        try:
            yield
        finally:
            self._slots.release()
            upload.slots.release()

    async def _write(self, upload: Upload, number: int, body: Body, sha256: bytes | None) -> None:
        """Where only the daemon's death has to be survived, the thread that takes the last byte writes the record too;
        else the record waits for the next flush."""
        writer = upload.writers[number] = Writer(body)
        span = upload.parts.span(number)
        hashes = Hashes(sha256=sha256 is not None)
        written: list[journal.Part] = []
        try:
            async with upload.files() as files:
                upload.check_open()

                def begin() -> None:
                    if not files.linked:
                        raise _Gone
                    reserve(files.data, span, self._free_floor)

                def arrived() -> journal.Part:
                    digests = _checked(number, hashes, sha256)
                    hit("part.after_digest")
                    return journal.Part.of(number, span.length, digests, time.time(), BOOT_ID)

                def end() -> None:
                    writer.keep()
                    part = arrived()
                    upload.write_down(files, [part])
                    written.append(part)

                at_once = not upload.durable and body.length is not None
                sink = Sink(files.data, span, hashes, begin=begin, end=end if at_once else None)
                if body.awaits_continue:
                    await in_thread(begin)
                try:
                    await self._receive(upload, number, body, sink.write)
                finally:
                    for part in written:  # and so it is accepted, whatever became of the request
                        upload.accept(number, part.digests, part.time)
                if written:
                    return hit("sync.before_ack")
                writer.keep()
                upload.check_open()
                part = arrived()
                await upload.record(part, then=lambda: upload.accept(number, part.digests, part.time))
        except _Gone:
            raise upload.lost() from None
        finally:
            del upload.writers[number]
            writer.done.set()

    async def _receive(self, upload: Upload, number: int, body: Body, write: Callable[[memoryview], None]) -> None:
        """Reads the whole part. Errors: PartSizeMismatch, and what ``body`` and ``write`` raise."""
        limit = upload.parts.span(number).length
        try:
            received = await body.receive(write, limit, partial(self._turn, upload))
        except RequestTooLarge:
            received = limit + 1
        upload.parts.check_length(number, received)


class _Gone(Exception):
    """Somebody has deleted the upload's files."""


def _checked(number: int, hashes: Hashes, sha256: bytes | None) -> Digests:
    """The digests of the whole part; InvalidPartChecksum where the SHA-256 is another than the declared one."""
    hit("part.after_last_write")
    digests = hashes.digests()
    if sha256 is not None and digests.sha256 != sha256:
        raise InvalidPartChecksum(
            f"part {number} arrived with another SHA-256 than the declared one: send it again", part_number=number
        )
    return digests
