"""The uploads of this daemon and the rules between them: what is charged, what the same key means, what ends when.

``Uploads`` owns every `Upload` and changes it on the loop, synchronously: decide, then act. What lasts (a create, a
completion, an end) runs as a job of its own that the callers join, so that a client that leaves changes nothing.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from agentd.core.conflict import Existing, decide
from agentd.core.states import UploadState
from agentd.errors import (
    AgentError,
    CapacityExceeded,
    InsufficientStagingSpace,
    InvalidRequest,
    KeyReused,
    NoSpace,
    NotADirectory,
    NotFound,
    SizeLimitExceeded,
    TargetConflict,
    Unavailable,
    UploadAborted,
    UploadAlreadyCompleted,
    UploadExpired,
    UploadFailed,
    UploadNotFound,
    WholeChecksumMismatch,
)
from agentd.failpoints import hit
from agentd.linux.oserrors import translate
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.threads import LONG, in_thread
from agentd.uploads import journal, recovery
from agentd.uploads.completion import LAST_RECORDS, Completion, check_complete, check_whole
from agentd.uploads.holding import Idle
from agentd.uploads.intake import Intake
from agentd.uploads.publish import Publisher
from agentd.uploads.staging import Store
from agentd.uploads.terms import NewUpload, UploadLimits, header_of
from agentd.uploads.upload import Body, Upload, start_job

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

CLOCK_JUMP = 3600.0  # seconds by which the wall clock may outrun the monotonic one
LONGEST_SLEEP = 3600.0  # seconds between two looks at the clock
RETRY = 60.0  # seconds until an upload whose disk failed is expired again
METADATA_LIMIT = 64 << 10  # bytes
TOMBSTONES = 10  # ended uploads that are remembered, as a multiple of max_sessions

_log = logging.getLogger("agentd.uploads")


class Uploads:
    """See the module. ``spawn`` starts a task that outlives its request; `close` waits for it."""

    def __init__(
        self, store: Store, root: Root, publisher: Publisher, places: Places, limits: UploadLimits, spawn: Start
    ) -> None:
        self.limits = limits
        self.quota = limits.quota_bytes or 0
        self.quarantined: list[str] = []
        self._store = store
        self._root = root
        self._publisher = publisher
        self._places = places
        self._intake = Intake(limits.parts_at_once, limits.min_free_bytes)
        self._start = spawn
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = Idle(self._spawn)
        self._completion = Completion(publisher, store, self._spawn)
        self._uploads: dict[str, Upload] = {}
        self._keys: dict[bytes, tuple[bytes, asyncio.Future[Upload]]] = {}
        self._unborn: list[int] = []  # the sizes of the creates that are under way
        self._wake = asyncio.Event()
        self._next_sweep = 0.0
        self._closing = False

    # -- the daemon's life

    async def open(self) -> recovery.Found:
        """Recovers what an earlier daemon left, before anybody may ask; says what was found."""
        found = await in_thread(recovery.scan, self._store, pool=LONG)
        hit("recover.after_scan")
        for recovered in found.uploads:
            upload = Upload(recovered.journal, self._store, self._spawn, self._idle)
            recovery.restore(upload, recovered)
            self._uploads[upload.id] = upload
            if upload.header.key is not None:
                self._remember(upload.header.key, upload)
            if upload.state.ended:
                if recovered.data_size is not None:
                    self._completion.clean(upload)
            elif upload.intent is not None:
                self._resume(upload)
        waiting = [u.header for u in self._uploads.values() if u.state is UploadState.STAGED and u.intent is None]
        await in_thread(self._publisher.clean_all_beside, waiting, pool=LONG)
        if self.limits.quota_bytes is None:
            self.quota = (await in_thread(self._store.free_bytes) + found.staged_bytes) * 9 // 10
        self.quarantined = found.quarantined
        return found

    async def run(self) -> None:
        """Expires and forgets, each at its time, for ever: a job for the daemon's supervisor."""
        wall, steady = time.time(), time.monotonic()
        while not self._closing:
            self._wake.clear()
            self._next_sweep = math.inf  # what comes up while the sweep waits for the disk needs another one
            elapsed, wall = time.time() - wall, time.time()
            if elapsed - (time.monotonic() - steady) > CLOCK_JUMP:
                await self._grant_another_lifetime()
            steady = time.monotonic()
            self._next_sweep = await self._sweep()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._next_sweep - time.time())):
                    await self._wake.wait()

    async def close(self) -> None:
        """Stops what still runs, at the next safe point, and gives the store back."""
        self._closing = True
        self._wake.set()
        for upload in self._uploads.values():
            upload.stop = upload.stop or _closing
        for upload in list(self._uploads.values()):
            await self._quiesce(upload)
        while self._tasks:
            await asyncio.wait(self._tasks)
        for upload in self._uploads.values():
            await upload.closed()
        await in_thread(self._store.close)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._start(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what clients ask for

    @property
    def active(self) -> int:
        """Uploads that have not ended, those that are being created included."""
        return len(self._unborn) + sum(not upload.state.ended for upload in self._uploads.values())

    @property
    def reserved(self) -> int:
        """Bytes that are promised to uploads that have not ended."""
        opened = (upload.header.size for upload in self._uploads.values() if not upload.state.ended)
        return sum(self._unborn) + sum(opened)

    def get(self, upload_id: str) -> Upload:
        """UploadNotFound; UploadFailed for one that could not be read after a restart."""
        if (upload := self._uploads.get(upload_id)) is not None:
            return upload
        if upload_id in self.quarantined:
            raise UploadFailed(f"upload {upload_id} could not be read after a restart: create a new one")
        raise UploadNotFound(f"there is no upload {upload_id!r}: it never was, or was forgotten after its end")

    def list(self) -> list[Upload]:
        """All uploads, the ended ones included, the newest first."""
        return sorted(self._uploads.values(), key=lambda upload: upload.header.created, reverse=True)

    async def create(self, new: NewUpload, key: str | None) -> Upload:
        """A new upload, or the one that the same ``key`` made before.

        Repeating a create that still runs joins it. KeyReused where the key stood for another request.
        """
        if key is None:
            return await asyncio.shield(start_job(self._spawn, self._create(new, None)))
        name, fingerprint = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), new.fingerprint()
        known = self._keys.get(name)
        if known is None:
            known = self._keys[name] = (fingerprint, start_job(self._spawn, self._create(new, name)))
            known[1].add_done_callback(lambda job: self._forget_failed(name, job))
        elif known[0] != fingerprint:
            raise KeyReused("this Idempotency-Key was used for another request: a new upload needs a new key")
        return await asyncio.shield(known[1])

    async def put_part(self, upload_id: str, number: int, body: Body, sha256: bytes | None) -> Upload:
        """Takes part ``number``; returns when it is accepted, by this body or by an equal one before.

        sha256: 32 bytes, where the client declared it. Errors: the reasons of the wire contract, section 1.12.
        """
        upload = self.get(upload_id)
        with upload.about():
            await self._intake.put(upload, number, body, sha256)
        self._completion.follow(upload)
        self._wake_by(upload.expires)
        return upload

    async def complete(self, upload_id: str, sha256: bytes | None) -> Upload:
        """Publishes the upload; joins a completion that runs, and answers again for one that is done."""
        upload = self.get(upload_id)
        with upload.about():
            while upload.state is not UploadState.COMPLETED:
                upload.check_open()
                check_whole(upload.header.whole_sha256, sha256)
                sent = len(upload.parts.accepted) + len(upload.writers)
                if upload.completion is None and sent < upload.parts.count:
                    check_complete(upload)  # a part that nobody sends is not waited for
                joined = upload.completion
                try:
                    await asyncio.shield(joined or self._complete(upload, sha256))
                except WholeChecksumMismatch:
                    if joined is None:
                        raise  # else it was another's digest that was wrong
            assert upload.published is not None
            if sha256 not in (None, upload.published.sha256):
                raise UploadAlreadyCompleted("the upload is completed, and not with the SHA-256 that is given now")
        return upload

    async def abort(self, upload_id: str) -> None:
        """Ends the upload and frees its space. Repeating it is harmless; what is published stays published.

        One that could not be read is deleted.
        """
        if upload_id in self.quarantined:
            await in_thread(self._store.delete_unreadable, upload_id, pool=LONG)
            self.quarantined = [name for name in self.quarantined if name != upload_id]
            return
        upload = self.get(upload_id)
        with upload.about():
            if upload.state is UploadState.COMPLETED:
                raise UploadAlreadyCompleted("the upload is completed: delete what it published instead")
            if upload.intent is not None:
                raise UploadAlreadyCompleted("the upload is about to be completed, or may be already: complete it")
            if not upload.state.ended:
                await asyncio.shield(self._end(upload, UploadState.ABORTED))

    # -- jobs

    async def _create(self, new: NewUpload, key: bytes | None) -> Upload:
        if self._closing:
            raise _closing()
        if new.size > self.limits.max_upload_bytes:
            raise SizeLimitExceeded(
                f"an upload has at most {self.limits.max_upload_bytes} bytes and {new.size} were asked for",
                limit=self.limits.max_upload_bytes,
                requested=new.size,
            )
        if len(new.metadata) > METADATA_LIMIT:
            raise InvalidRequest(f"metadata has at most {METADATA_LIMIT} bytes of JSON")
        target = await in_thread(self._check_target, new)
        self._check_capacity(new.size)
        self._unborn.append(new.size)
        try:
            header = header_of(new, target, self.limits, self.quota, key)
            made = await in_thread(self._store.create, header, -(-header.size // header.part_size))
        except OSError as error:
            fault = translate(error, "stage", target)
            if isinstance(fault, NoSpace):
                raise InsufficientStagingSpace(fault.detail, path=target) from error
            raise fault or error from error
        finally:
            self._unborn.remove(new.size)
        upload = self._uploads[header.upload_id] = Upload(made, self._store, self._spawn, self._idle)
        upload.stop = _closing if self._closing else None
        self._wake_by(upload.expires)
        hit("create.before_ack")
        return upload

    def _complete(self, upload: Upload, sha256: bytes | None) -> asyncio.Future[None]:
        async def run() -> None:
            try:
                await self._completion.run(upload, sha256)
            finally:
                upload.completion = None
                self._wake_by(upload.updated + self.limits.retention)

        upload.completion = start_job(self._spawn, run())
        return upload.completion

    def _resume(self, upload: Upload) -> None:
        """Finishes a completion that nobody waits for any more."""

        def told(job: asyncio.Future[None]) -> None:
            if not job.cancelled() and (error := job.exception()) is not None:
                _log.warning("the completion of upload %s was not resumed: %s", upload.id, error)

        self._complete(upload, None).add_done_callback(told)

    def _end(self, upload: Upload, state: UploadState) -> asyncio.Future[None]:
        """Aborts or expires ``upload``, once, whoever asks."""

        async def run() -> None:
            try:
                await self._quiesce(upload)
                if upload.state.ended or upload.intent is not None:
                    return
                await self._completion.end(upload, state)
            finally:
                upload.ending = upload.stop = None
                self._wake_by(upload.updated + self.limits.retention)

        if upload.ending is None:
            upload.stop = _aborted if state is UploadState.ABORTED else _expired
            upload.ending = start_job(self._spawn, run())
        return upload.ending

    async def _quiesce(self, upload: Upload) -> None:
        """Returns when nobody writes to the upload and no completion runs; `Upload.stop` keeps new ones out."""
        while upload.writers or upload.completion is not None or upload.following is not None:
            for writer in upload.writers.values():
                writer.let_go()
            if upload.writers:
                await next(iter(upload.writers.values())).done.wait()
            elif (job := upload.completion or upload.following) is not None:
                await asyncio.wait([job])

    # -- create

    def _check_target(self, new: NewUpload) -> str:
        """The absolute target. Refuses now what could only be refused later: who, where, and mode ``error``. Blocks."""
        asked = self._places.find(new.target_path, new.user)
        path = asked.path
        steps_up = ".." in path.split("/")
        try:
            with self._root.locate(path, rights=asked.rights) as place:
                mode = None if place.stat is None else place.stat.st_mode
                decide(new.kind, new.conflict, Existing.of(mode), path)
                return place.path if steps_up else path
        except NotADirectory as error:
            raise TargetConflict(error.detail, path=path) from error
        except NotFound:
            if steps_up:
                raise  # where a step up leads from a directory that is not there, nobody can tell
        return path  # missing parents are made when there is something to publish

    def _check_capacity(self, size: int) -> None:
        active = self.active
        if active >= self.limits.max_sessions:
            raise CapacityExceeded(
                f"{active} uploads are open and no more are taken: complete or abort some first",
                limit=self.limits.max_sessions,
                used=active,
            )
        reserved = self.reserved
        if reserved + size > self.quota:
            raise InsufficientStagingSpace(
                f"{size} bytes do not fit into the staging quota of {self.quota}, of which {reserved} are reserved: "
                "complete or abort other uploads first",
                limit=self.quota,
                used=reserved,
                requested=size,
            )

    def _remember(self, key: bytes, upload: Upload) -> None:
        known: asyncio.Future[Upload] = asyncio.get_running_loop().create_future()
        known.set_result(upload)
        self._keys[key] = (upload.header.fingerprint, known)

    def _forget_failed(self, key: bytes, job: asyncio.Future[Upload]) -> None:
        if job.cancelled() or job.exception() is not None:
            del self._keys[key]

    # -- time

    def _wake_by(self, when: float) -> None:
        if when < self._next_sweep:
            self._wake.set()

    async def _sweep(self) -> float:
        """Ends what is over its time, forgets what ended long ago, and says when to look again."""
        now = time.time()
        next_look = now + LONGEST_SLEEP
        ended = []
        for upload in self._uploads.values():  # neither lies farther ahead, unless the clock was set back
            upload.updated = min(upload.updated, now)
            upload.expires = min(upload.expires, now + upload.header.lifetime)
        for upload in list(self._uploads.values()):
            if upload.state.ended:
                ended.append(upload)
            elif upload.expires > now:
                next_look = min(next_look, upload.expires)
            elif upload.busy or upload.intent is not None:
                if not upload.busy:
                    self._resume(upload)  # what was begun is finished first
                next_look = min(next_look, now + min(RETRY, upload.header.lifetime))
            else:
                try:
                    await asyncio.shield(self._end(upload, UploadState.EXPIRED))
                    next_look = now
                except (AgentError, OSError):
                    _log.exception("upload %s could not be expired", upload.id)
                    next_look = min(next_look, now + RETRY)
        ended.sort(key=lambda upload: upload.updated)
        surplus = len(ended) - TOMBSTONES * self.limits.max_sessions
        for position, upload in enumerate(ended):
            forgotten = upload.updated + self.limits.retention
            if forgotten > now and position >= surplus:
                next_look = min(next_look, forgotten)
                break
            await self._forget(upload)
        return next_look

    async def _forget(self, upload: Upload) -> None:
        for job in (upload.cleaning, upload.ending):
            if job is not None:
                await asyncio.wait([job])
        self._uploads.pop(upload.id, None)
        if upload.header.key is not None:
            self._keys.pop(upload.header.key, None)
        try:
            await in_thread(self._store.delete, upload.id, pool=LONG)
        except OSError:
            _log.exception("upload %s is forgotten, but cannot be deleted whole; the next start tries again", upload.id)

    async def _grant_another_lifetime(self) -> None:
        """The machine slept, or was resumed from a snapshot: that time is not held against anybody."""
        for upload in list(self._uploads.values()):
            if not upload.state.ended and upload.state is not UploadState.FAILED:
                expires = time.time() + upload.header.lifetime

                def extended(upload: Upload = upload, expires: float = expires) -> None:
                    upload.expires = expires

                missing = upload.parts.count - len(upload.parts.accepted)
                if upload.journal.spare - missing <= LAST_RECORDS:
                    extended()  # until the next start
                    continue
                try:
                    await upload.record(journal.Extend(expires), then=extended)
                except (AgentError, OSError):
                    _log.exception("upload %s could not be given more time", upload.id)


def _closing() -> AgentError:
    return Unavailable("the daemon stops: repeat when it is back", retry_after=1)


def _aborted() -> AgentError:
    return UploadAborted("the upload is being aborted: create a new one")


def _expired() -> AgentError:
    return UploadExpired("the upload is expiring: create a new one")
