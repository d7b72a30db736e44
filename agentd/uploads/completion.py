"""The job that turns a staged upload into its target: seal, count, digest, publish. And how an upload ends without.

It runs once at a time, whoever asks. It stops at the next safe point where `Upload.stop` says so, until the intent is
written; from then on it finishes, if need be in the next life of the daemon.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable

from agentd.core.conflict import Kind
from agentd.core.states import UploadState
from agentd.errors import AgentError, Conflict, MissingParts, TargetConflict, UploadFailed, WholeChecksumMismatch
from agentd.failpoints import hit
from agentd.linux.copying import Stopped
from agentd.linux.threads import LONG, Pool, in_thread
from agentd.uploads import digest
from agentd.uploads.journal import NO_DIGEST, Abort, Expire, Header, Intent, Published, Rollback
from agentd.uploads.publish import Publisher, Staged
from agentd.uploads.staging import Files, Store
from agentd.uploads.upload import Spawn, Upload, start_job

_log = logging.getLogger("agentd.uploads")

ANSWER_FIRST = 0.05  # seconds; what is replaced may take longer to free than the whole completion
LAST_RECORDS = 3  # what a completion may need besides the parts: its intent, how that ended, and an abort
_TRIES = 4
_FULL = (errno.ENOSPC, errno.EDQUOT)
DIGEST = Pool("digest", 2)  # apart, so that a long upload's digest keeps nobody from publishing


class Completion:
    def __init__(self, publisher: Publisher, store: Store, spawn: Spawn) -> None:
        self._publisher = publisher
        self._store = store
        self._spawn = spawn

    async def run(self, upload: Upload, sha256: bytes | None) -> None:
        """Publishes ``upload``, whose whole is said to have the digest ``sha256`` (None: nothing is said).

        On an error the upload is staged as before (or uploading, where parts are missing), and nothing is published but
        entries that a merge had moved: repeating it moves the rest.
        """
        upload.sealed = True
        try:
            hit("complete.after_seal")
            while upload.writers:
                await next(iter(upload.writers.values())).done.wait()
            if upload.following is not None:
                await asyncio.wait([upload.following])
            await upload.closed()  # opened anew, so that what is published is what has the names
            upload.check_open()
            check_complete(upload)
            upload.turn(UploadState.COMPLETING)
            async with upload.files() as files:
                upload.check_open()
                if upload.intent is None:
                    await self._publish(upload, files, sha256)
                elif not await self._resumed(upload, files, upload.intent):
                    if sha256 is None and upload.intent.sha256 != NO_DIGEST:
                        sha256 = upload.intent.sha256
                    # What was staged is about to be staged anew: the old intent's inode would prove nothing after that.
                    await self._withdraw(upload)
                    await self._publish(upload, files, sha256)
        except Stopped:
            upload.check_open()
            raise
        finally:
            upload.sealed = False
            if upload.state is UploadState.COMPLETING:
                upload.turn(UploadState.STAGED)
        await upload.closed()

    def follow(self, upload: Upload) -> None:
        """Hashes what is accepted without a gap while the rest still comes, where the whole is likely to be declared:
        it is already, or the client declares its parts."""
        last = next(reversed(upload.parts.accepted.values()), None)
        wanted = upload.header.whole_sha256 is not None or (last is not None and last.sha256 is not None)
        idle = upload.following is None and upload.completion is None  # which hashes the rest itself
        if wanted and idle and upload.parts.count > 1 and upload.whole.position < upload.parts.prefix_bytes:
            upload.following = start_job(self._spawn, self._follow(upload))

    async def _follow(self, upload: Upload) -> None:
        try:
            async with upload.files() as files:
                while not upload.overtaken() and upload.whole.position < (upto := upload.parts.prefix_bytes):
                    await in_thread(upload.whole.advance, files.data, upto, upload.overtaken, pool=DIGEST)
        except Stopped:
            pass
        finally:
            upload.following = None

    def clean(self, upload: Upload, staged: Staged | None = None) -> None:
        """Frees what an ended upload left, once its answer is likely to be out, for that keeps the file system busy;
        what a crash leaves of it the next daemon does.

        ``staged`` None: of an earlier daemon.
        """

        async def run() -> None:
            try:
                if staged is not None:
                    await asyncio.sleep(ANSWER_FIRST)
                    await in_thread(staged.discard, pool=LONG)
                else:
                    await in_thread(self._publisher.clean_beside, upload.header, pool=LONG)
                await in_thread(self._store.empty, upload.id, upload.journal, "complete.mid_cleanup", pool=LONG)
            except OSError:
                _log.exception("what upload %s left could not be freed; the next start tries again", upload.id)

        upload.cleaning = start_job(self._spawn, run())

    async def end(self, upload: Upload, state: UploadState) -> None:
        """Aborts or expires ``upload``, to which nobody writes any more, and frees what it has."""
        now = time.time()
        aborted = state is UploadState.ABORTED
        was_whole = upload.parts.next_part is None

        async def told() -> None:
            await upload.record(Abort(now) if aborted else Expire(now), then=lambda: upload.turn(state, now))

        async def freed(*, at_last: bool = True) -> None:
            if was_whole:  # what an earlier daemon left beside the target, which may not have been mounted since
                await in_thread(self._publisher.clean_beside, upload.header, pool=LONG)
            await in_thread(self._store.empty, upload.id, upload.journal, "abort.mid_unlink", at_last, pool=LONG)

        try:
            try:
                await told()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                await freed(at_last=False)  # there is room for the record then
                await told()
            hit("abort.after_record" if aborted else "sweep.after_record")
            await freed()
        except (UploadFailed, FileNotFoundError):
            if not upload.state.ended:  # somebody deleted its directory: there is nothing left to end
                upload.turn(state, now)

    async def _resumed(self, upload: Upload, files: Files, intent: Intent) -> bool:
        """Whether the rename of an earlier life turns out to have happened."""
        if not await in_thread(self._publisher.was_published, upload.header, files, intent, pool=LONG):
            return False
        if upload.unverified and upload.header.kind is Kind.FILE:
            try:
                target = await in_thread(self._publisher.open_target, upload.header)
            except AgentError as error:
                if error.retryable:
                    raise
                raise upload.lost() from error  # what was renamed is not there to be looked at
            with target:
                await _check_parts(upload, target.fd)
        published = Published(upload.header.size, intent.files, intent.sha256, time.time())
        await upload.record(published, then=lambda: upload.finish(published))
        hit("recover.after_redo")
        self.clean(upload)
        return True

    async def _publish(self, upload: Upload, files: Files, sha256: bytes | None) -> None:
        beside = False
        for _ in range(_TRIES):
            if upload.journal.spare < LAST_RECORDS:
                raise Conflict(
                    "the completion failed so often that the journal has no room for another try: abort the upload and "
                    "create a new one"
                )
            whole = await _check_content(upload, files, sha256)
            staged = await in_thread(self._stage, upload.header, files, beside, upload.stopping, pool=LONG)
            try:
                await self._act(upload, staged, whole or NO_DIGEST)
            except BaseException:
                # An intent that stands says that the staged object is there.
                free = staged.keep.close if staged.moved or upload.intent is not None else staged.discard
                await in_thread(free, pool=LONG)
                raise
            if staged.moved:
                break
            await in_thread(staged.discard, pool=LONG)
            # Another file system than the staging area's, though the device is the same; else the target has changed.
            beside = beside or staged.far
        else:
            path = upload.header.path
            raise TargetConflict(f"{path!r} comes and goes all the time; repeat when that is over", path=path)
        try:
            hit("complete.after_rename")
            if upload.durable:
                await in_thread(self._publisher.sync, staged, pool=LONG)
            published = Published(upload.header.size, staged.files, whole or NO_DIGEST, time.time())
            await upload.record(published, then=lambda: upload.finish(published))
            hit("complete.after_published")
        except BaseException:
            await in_thread(staged.keep.close, pool=LONG)
            raise  # the intent stays: the next completion finds that this one published
        self.clean(upload, staged)

    def _stage(self, header: Header, files: Files, beside: bool, stop: Callable[[], bool]) -> Staged:
        self._store.check_place()
        return self._publisher.stage(header, files, beside, stop)

    async def _act(self, upload: Upload, staged: Staged, whole: bytes) -> None:
        """Announces the act and does it; where the staged object did not become the target, the intent is withdrawn."""
        upload.check_open()
        method = staged.method.value
        upload.intent = Intent(staged.inode, method, staged.beside, staged.files, whole)
        used = upload.journal.used
        try:
            await upload.record(upload.intent)
            hit("complete.after_intent")
            await in_thread(self._publisher.act, staged, upload.header, pool=LONG)
        finally:
            if upload.journal.used == used:
                upload.intent = None  # it was refused
            elif not staged.moved:
                await self._withdraw(upload)

    async def _withdraw(self, upload: Upload) -> None:
        """Takes the intent back, if there is one, before the staged object that it names goes."""

        def withdrawn() -> None:
            upload.intent = None

        if upload.intent is not None:
            await upload.record(Rollback(time.time()), then=withdrawn)


def check_complete(upload: Upload) -> None:
    """MissingParts, with their ranges, unless every part is accepted."""
    if upload.parts.next_part is not None:
        missing = upload.parts.missing()
        named = [str(first) if first == last else f"{first}-{last}" for first, last in missing]
        if len(named) > 10:
            named[10:] = ["..."]
        raise MissingParts(
            f"{upload.parts.count - len(upload.parts.accepted)} parts are missing: {', '.join(named)}",
            missing=[list(span) for span in missing],
        )


def check_whole(declared: bytes | None, given: bytes | None) -> None:
    """WholeChecksumMismatch where two digests of the whole, both known, differ."""
    if declared is not None and given is not None and declared != given:
        raise WholeChecksumMismatch(
            f"the whole has SHA-256 {declared.hex()} and not {given.hex()}: nothing was published",
            expected=given.hex(),
            actual=declared.hex(),
        )


async def _check_content(upload: Upload, files: Files, sha256: bytes | None) -> bytes | None:
    """The SHA-256 of the whole, where anybody declared one."""
    await _check_parts(upload, files.data)
    whole = None
    if sha256 is not None or upload.header.whole_sha256 is not None:
        if upload.parts.count == 1:
            whole = upload.parts.accepted[0].sha256
        if whole is None:
            whole = await in_thread(upload.whole.advance, files.data, upload.header.size, upload.stopping, pool=LONG)
        upload.check_open()
        check_whole(whole, sha256)
        check_whole(whole, upload.header.whole_sha256)
    hit("complete.after_hash")
    return whole


async def _check_parts(upload: Upload, fd: int) -> None:
    """UploadFailed where ``fd`` does not hold what was accepted before the machine booted."""
    if not upload.unverified:
        return
    parts = [(n, upload.parts.span(n), upload.parts.accepted[n].xxh3) for n in sorted(upload.unverified)]
    lost = await in_thread(digest.first_changed, fd, parts, upload.stopping, pool=LONG)
    upload.check_open()
    if lost is not None:
        upload.intent = None
        upload.fail("state_lost")
        raise UploadFailed(f"part {lost} did not survive the restart of the machine: create a new upload")
    upload.unverified.clear()
