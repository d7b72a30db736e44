"""One upload: its state, who writes to it now, and the one task that makes its records durable.

Everything here runs on the loop and changes state synchronously; only files are touched by threads.
"""

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from agentd.core.parts import Digests, PartTable
from agentd.core.states import UploadState, check_transition, refusal
from agentd.errors import AgentError, ClientGone, InsufficientStagingSpace, NoSpace, Unavailable
from agentd.failpoints import hit
from agentd.linux.oserrors import translate
from agentd.linux.threads import in_thread
from agentd.uploads.digest import WholeDigest
from agentd.uploads.holding import Holding, Idle
from agentd.uploads.journal import Intent, Journal, Published, Record
from agentd.uploads.staging import Files, Store

T = TypeVar("T")
Batch = list[tuple[Record, Callable[[], None], asyncio.Future[None]]]
_BROKEN = frozenset({errno.EIO, errno.EUCLEAN, errno.ESTALE, errno.EBADF})
_TAKES_PARTS = frozenset({UploadState.CREATED, UploadState.UPLOADING, UploadState.STAGED})
Spawn = Callable[[Coroutine[Any, Any, None]], object]
Turn = Callable[[], AbstractAsyncContextManager[object]]


class Body(Protocol):
    """The bytes of a part, wherever they come from."""

    @property
    def length(self) -> int | None:
        """Their number, where it is known beforehand."""

    async def receive(self, write: Callable[[memoryview], None], limit: int, turn: Turn) -> int:
        """Feeds the bytes, in order, to ``write``, which blocks and is called in worker threads; their number.

        ``turn`` is entered whenever there are bytes, for a few MiB at most."""

    @property
    def awaits_continue(self) -> bool:
        """Whether the client sends nothing until `receive` begins."""

    async def discard(self) -> None:
        """Drops the bytes."""

    def cut(self) -> None:
        """Ends a ``receive`` that runs, soon."""


class Writer(msgspec.Struct):
    """Who writes a part now. ``done`` is set when no thread of it is left."""

    body: Body
    done: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    _decision: threading.Lock = msgspec.field(default_factory=threading.Lock)
    _kept: bool = False
    _gone: bool = False

    def let_go(self) -> None:
        """Asks for the part; a writer that has the whole body is awaited instead."""
        with self._decision:
            self._gone = not self._kept
        if self._gone:
            self.body.cut()

    def keep(self) -> None:
        """Says, from any thread, that the whole body is there. ClientGone where it was asked to let go before."""
        with self._decision:
            if self._gone:
                raise ClientGone("another request has taken this part over")
            self._kept = True


class Upload:
    """Owned by `registry.Uploads`. Times are seconds since the epoch."""

    def __init__(self, journal: Journal, store: Store, spawn: Spawn, idle: Idle) -> None:
        # The client's metadata is kept on the disk alone.
        header = msgspec.structs.replace(journal.header, metadata=b"")
        journal.header = header
        self.journal = journal
        self.header = header
        self.parts = PartTable(header.size, header.part_size)
        self.state = UploadState.STAGED if self.parts.count == 0 else UploadState.CREATED
        self.updated = header.created
        self.expires = header.created + header.lifetime
        self.failure = ""
        self.published: Published | None = None
        self.writers: dict[int, Writer] = {}
        self.slots = asyncio.Semaphore(header.limits.max_concurrency)
        self.sealed = False  # no new writers: a completion counts what is there
        self.intent: Intent | None = None  # past the point of no return
        self.stop: Callable[[], AgentError] | None = None  # why whatever runs has to stop
        self.completion: asyncio.Future[None] | None = None
        self.ending: asyncio.Future[None] | None = None
        self.whole = WholeDigest()
        self.following: asyncio.Future[None] | None = None
        self.cleaning: asyncio.Future[None] | None = None
        self.unverified: set[int] = set()  # parts accepted before the machine booted
        self._spawn = spawn
        self._queue: Batch = []
        self._committing = False
        self._holding = Holding(partial(store.open, header.upload_id), self._lingers, idle)

    @property
    def id(self) -> str:
        return self.header.upload_id

    @property
    def durable(self) -> bool:
        return self.header.durable

    @property
    def busy(self) -> bool:
        return bool(self.writers) or self.completion is not None

    def turn(self, state: UploadState, when: float | None = None) -> None:
        """Changes the state, by the table of `core.states`."""
        self.state = check_transition(self.state, state)
        if state.ended:
            self.parts.accepted.clear()  # it may be remembered for long
        self.updated = time.time() if when is None else when

    def accept(self, number: int, digests: Digests, when: float) -> None:
        """Part ``number`` is accepted, and the upload lives on from now."""
        self.parts.accept(number, digests)
        self.expires = max(self.expires, when + self.header.lifetime)
        state = UploadState.STAGED if self.parts.next_part is None else UploadState.UPLOADING
        if self.state in (UploadState.CREATED, UploadState.UPLOADING) and self.state is not state:
            self.turn(state, when)
        self.updated = when

    def finish(self, published: Published) -> None:
        """The target shows the content."""
        self.published, self.intent = published, None
        self.turn(UploadState.COMPLETED, published.time)

    def fail(self, failure: str, when: float | None = None) -> None:
        """The upload cannot go on; what was accepted may be lost, and every later answer says so.

        One whose intent is written does not fail: whether it is published is for the next completion to find out.
        """
        if self.intent is None and not self.state.ended and self.state is not UploadState.FAILED:
            self.turn(UploadState.FAILED, when)
            self.failure = failure

    def check_open(self) -> None:
        """Raises why nothing more can be done with the upload, where that is so."""
        refused = refusal(self.state, self.failure) or (self.stop and self.stop())
        if refused is not None:
            raise refused

    def stopping(self) -> bool:
        """For threads: whether to give up."""
        return self.stop is not None

    def overtaken(self) -> bool:
        """For the thread that follows the parts: whether a completion does the rest."""
        return self.stop is not None or self.sealed

    @contextmanager
    def about(self) -> Iterator[None]:
        """Every error out of the block names this upload; what the staging disk says gets its word of the contract."""
        try:
            yield
        except AgentError as error:
            raise self._worded(error) from error.__cause__
        except OSError as error:
            if error.errno in _BROKEN:
                self.fail("storage_failed")
            fault = translate(error, "stage", self.header.path)
            if fault is None:
                raise
            raise self._worded(fault) from error

    def _worded(self, error: AgentError) -> AgentError:
        if isinstance(error, NoSpace):
            error = InsufficientStagingSpace(error.detail, **error.facts)
        error.facts.setdefault("upload_id", self.id)
        return error

    @asynccontextmanager
    async def files(self) -> AsyncIterator[Files]:
        """The upload's open files.

        UploadFailed where they are no longer there, or not whole: what was accepted is lost.
        """
        async with AsyncExitStack() as stack:
            try:
                files = await stack.enter_async_context(self._holding.held())
            except FileNotFoundError:
                raise self.lost() from None
            if files.data_size != self.header.size and not self.state.ended:
                self.fail("state_lost")
            yield files

    def lost(self) -> Exception:
        """The upload's files are not there any more: it fails, with this."""
        self.intent = None
        self.fail("state_lost")
        return refusal(UploadState.FAILED, "state_lost") or AssertionError()

    def _lingers(self) -> bool:
        return not self.sealed and self.stop is None and self.state in _TAKES_PARTS

    async def closed(self) -> None:
        """Returns when no file of the upload is open: what was published can be executed then (ETXTBSY, execve(2))."""
        await self._holding.closed()

    async def record(self, record: Record, then: Callable[[], None] = lambda: None) -> None:
        """Makes ``record`` as durable as the upload is, then calls ``then``, which changes the state.

        Returns when that has happened, however often the caller is cancelled meanwhile (and re-raises that then).
        Records that arrive while others are written go out together.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((record, then, done))
        if not self._committing:
            self._committing = True
            self._spawn(self._commit())
        await settled(done)

    async def _commit(self) -> None:
        batch: Batch = []
        try:
            while self._queue:  # again, because closing the files gives others a turn
                async with self.files() as files:
                    while self._queue:
                        room = self.journal.room if self.durable else len(self._queue)
                        batch, self._queue = self._queue[:room], self._queue[room:]
                        await in_thread(self.write_down, files, [record for record, _, _ in batch])
                        for _, then, done in batch:
                            then()
                            hit("sync.before_ack")
                            done.set_result(None)
        except (OSError, AgentError) as error:
            self._refuse(batch, error)
        except BaseException:
            self._refuse(batch, Unavailable("the daemon stopped meanwhile: ask for the upload's state, and repeat"))
            raise
        finally:
            self._committing = False

    def _refuse(self, batch: Batch, why: Exception) -> None:
        if isinstance(why, OSError) and why.errno in _BROKEN:
            self.fail("storage_failed")
        batch, self._queue = batch + self._queue, []
        for _, _, done in batch:
            if not done.done():
                done.set_exception(why)

    def write_down(self, files: Files, records: list[Record]) -> None:
        """Makes ``records`` last, in the journal. Blocks."""
        hit("sync.before_data")
        if self.durable and files.data >= 0:
            os.fdatasync(files.data)
        hit("sync.after_data")
        self.journal.append(files.journal, records, durable=self.durable)
        hit("sync.after_journal")


def start_job(spawn: Spawn, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Runs ``work`` beside all requests; they await the future it returns, shielded, and none of them ends it."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        try:
            result = await work
        except asyncio.CancelledError:
            done.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever awaits the job
            done.set_exception(error)
            done.exception()  # marks it as seen: a job that nobody waits for any more may fail in peace
        else:
            done.set_result(result)

    spawn(run())
    return done


async def settled(future: asyncio.Future[None]) -> None:
    """Waits until ``future`` is done, through any number of cancellations, and only then lets them count."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    failure = future.exception()
    if cancelled is not None:
        raise cancelled
    if failure is not None:
        raise failure
