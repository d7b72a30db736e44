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
from collections.abc import AsyncIterator
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
                    digests = await self._receive(upload, number, body, Hashes(sha256=sha256 is not None), sha256)
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
        writer = upload.writers[number] = Writer(body)
        try:
            span = upload.parts.span(number)
            async with upload.files() as files:
                upload.check_open()
                await in_thread(reserve, files.data, span, self._free_floor)
                sink = Sink(files.data, span.offset, sha256=sha256 is not None)
                digests = await self._receive(upload, number, body, sink, sha256)
                writer.received = True
                upload.check_open()
                hit("part.after_digest")
                now = time.time()
                part = journal.Part.of(number, span.length, digests, now, BOOT_ID)
                await upload.record(part, then=lambda: upload.accept(number, digests, now))
        finally:
            del upload.writers[number]
            writer.done.set()

    async def _receive(
        self, upload: Upload, number: int, body: Body, into: Sink | Hashes, sha256: bytes | None
    ) -> Digests:
        """Reads the whole part. Errors: PartSizeMismatch, InvalidPartChecksum, and what ``body`` raises."""
        limit = upload.parts.span(number).length
        try:
            received = await body.receive(into.write, limit, partial(self._turn, upload))
        except RequestTooLarge:
            received = limit + 1
        upload.parts.check_length(number, received)
        hit("part.after_last_write")
        digests = into.digests()
        if sha256 is not None and digests.sha256 != sha256:
            raise InvalidPartChecksum(
                f"part {number} arrived with another SHA-256 than the declared one: send it again", part_number=number
            )
        return digests
