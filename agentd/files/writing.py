"""How a file gets its content: all of it at once, by whatever route it came.

What is to be written is first collected in a draft, which nobody sees. It gets the owner and the mode that the file is
to have, and by one rename the file's name: whoever reads the file gets the old content or the new, and where the body
ends early or the daemon dies the old one stays.

Some files cannot change their inode: a file that is a mount of its own (as containers get /etc/hosts), one that the
kernel makes up (/proc/sys, cgroups), one on a mount that refuses renames, and one whose writer may write to it but not
in its directory. Their content is copied into them once it has come whole, which is not atomic, and is logged. A
character device is given the bytes. FIFOs, sockets and block devices are not written to: that is what commands are for.
"""

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from agentd.errors import AgentError, Conflict, IsADirectory, NotFound, PermissionDenied
from agentd.failpoints import hit
from agentd.files import generated
from agentd.files.batch import Batch
from agentd.files.copies import OF_ANY_COPY
from agentd.files.drafts import Draft, Drafts
from agentd.files.entries import REFUSALS, suppress_refusals
from agentd.files.operations import Entry, Files
from agentd.linux import syscalls
from agentd.linux.attributes import copy_attributes
from agentd.linux.copying import allocate, copy_file
from agentd.linux.descriptor import Descriptor
from agentd.linux.oserrors import UNABLE, Table, os_errors, translate
from agentd.linux.places import Place
from agentd.linux.root import Location, Opened, Root
from agentd.linux.settling import IN_PLACE, once, settle, sync_upwards, unless_mount_refuses
from agentd.linux.threads import in_thread

BODY_LIMIT = 1 << 40  # bytes: what ends a larger body is the disk
_PIECE = 1 << 20
_TRIES = 8
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Feeds the bytes in order to a function that blocks, at most so many of them; returns their number. See http.body.
Receive = Callable[[Callable[[memoryview], None], int], Awaitable[int]]

_MEANINGS: Table = {
    errno.ENOENT: (Conflict, "its directory was moved or removed meanwhile; repeat"),
    errno.EMLINK: (Conflict, "its directory is full; choose another one"),
    **UNABLE,
}


class Pending:
    """A file that is being written, until the end of `Writing.begun`."""

    def __init__(self, writing: "Writing", draft: Draft, place: Place, replace: bool) -> None:
        self._writing = writing
        self._draft = draft
        self._place = place
        self._replace = replace

    def write(self, piece: memoryview) -> None:
        """Behind what is there. Blocks. Raises NoSpace and what else the disk says."""
        with os_errors("write", self._place.path, UNABLE):
            self._draft.write(piece)

    async def publish(self) -> Entry:
        """Puts it into place; it is whole."""
        hit("write.after_body")
        return await in_thread(self._writing.publish, self._draft, self._place, self._replace)


class Writing:
    """durable: what is written survives power loss, too."""

    def __init__(self, root: Root, files: Files, drafts: Drafts, *, durable: bool) -> None:
        self._root = root
        self._files = files
        self._drafts = drafts
        self._durable = durable

    @asynccontextmanager
    async def begun(self, place: Place, length: int | None = None, *, replace: bool = True) -> AsyncIterator[Pending]:
        """A file to be written piece by piece and then published; where that does not happen, nothing has.

        length: of what will come, where it is known. What cannot be is refused here, before anything is read, and again
        when it is published. Raises Conflict (something is there and ``replace`` is False; what is there is no file),
        IsADirectory, NoSpace, and what `Root.locate` raises.
        """
        draft = await in_thread(self.begin, place, length, replace)
        try:
            yield Pending(self, draft, place, replace)
        finally:
            await in_thread(draft.close)

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """Files that are put into place together; see `batch`."""
        batch = Batch(self, self._drafts)
        try:
            yield batch
        finally:
            await batch.close()

    async def receive(
        self,
        place: Place,
        receive: Receive,
        length: int | None = None,
        *,
        replace: bool = True,
        limit: int = BODY_LIMIT,
    ) -> Entry:
        """Makes a body of at most ``limit`` bytes the content of the file, and says what it is then. Raises what
        `begun` and ``receive`` raise."""
        async with self.begun(place, length, replace=replace) as pending:
            await receive(pending.write, limit)
            return await pending.publish()

    async def receive_one(self, find: Callable[[], Place], receive: Receive) -> tuple[Entry, int] | AgentError:
        """As `receive`, for one file of several that come one behind another: what it is then, and how many bytes came.

        What fails for this file (``find``, which blocks, included) is returned, and its bytes are passed over; what
        fails for all that comes is raised by ``receive``, and from here.
        """
        failed: list[AgentError] = []
        receiving = False
        try:
            place = await in_thread(find)
            async with self.begun(place) as pending:

                def write(piece: memoryview) -> None:
                    try:
                        if not failed:
                            pending.write(piece)
                    except AgentError as error:
                        failed.append(error)

                receiving = True
                size = await receive(write, BODY_LIMIT)
                receiving = False
                return failed[0] if failed else (await pending.publish(), size)
        except AgentError as error:
            if receiving:
                raise
            return error

    def write(self, place: Place, content: bytes | memoryview, *, replace: bool = True) -> Entry:
        """As `receive`, for content that is there. Blocks."""
        with self.begin(place, len(content), replace) as draft, os_errors("write", place.path, UNABLE):
            draft.write(content)
            return self.publish(draft, place, replace)

    def append(self, place: Place, content: bytes) -> Entry:
        """Puts the content behind that of the file, which is made where it is missing. Blocks.

        It is one write(2) with O_APPEND: it is whole, and nothing of other writers comes between. Where there is no
        room for all of it nothing is appended. The file keeps its owner, whoever is named. Raises as `write` does.
        """
        for _ in range(_TRIES):
            try:
                return self._append(place, content)
            except NotFound:
                pass
            try:
                return self.write(place, content, replace=False)
            except Conflict as error:
                failed = error
        raise failed

    def begin(self, place: Place, length: int | None, replace: bool = True) -> Draft:
        """A draft of what is to stand at the place. Blocks."""
        with os_errors("write", place.path, _MEANINGS), self._nearest(place, replace) as near:
            draft = self._draft(near)
            try:
                draft.expect(length or 0)
            except BaseException:
                draft.close()
                raise
            return draft

    def fit(self, draft: Draft, place: Place) -> Draft:
        """A whole draft of the reserved tree, or a copy in its stead from which a rename leads to the place. What
        cannot be is refused as by `begin`. Blocks."""
        with os_errors("write", place.path, _MEANINGS), self._nearest(place, True) as near:
            if not self._goes_beside(near):
                return draft
            with suppress_refusals():
                draft.seal()
                copy = self._drafts.beside(near)
                try:
                    allocate(copy.fd, 0, draft.size)
                    copy_file(draft.fd, copy.fd, draft.size)
                except BaseException:
                    copy.close()
                    raise
                copy.size = draft.size
                draft.close()
                return copy
            return draft

    def publish(self, draft: Draft, place: Place, replace: bool = True, mode: int | None = None) -> Entry:
        """Makes the draft the file: sealed, settled, renamed. mode: of a new one, instead of 0644. Blocks."""
        with os_errors("write", place.path, _MEANINGS):
            draft.seal()
            with self._root.locate(place.path, make_parents=place.owner, rights=place.rights) as location:
                _check(location, place.path, replace)
                if _must_stay(location) or not _may_replace(location):
                    found = self._fill(draft, place, location)
                else:
                    found = self._take_place(draft, place, location, replace, mode)
            return self._files.entry(location.path, found)

    # -- inside

    def _nearest(self, place: Place, replace: bool) -> Location:
        """The place, checked, or the first directory that is missing on the way to it."""
        path = place.path
        while True:
            try:
                location = self._root.locate(path, rights=place.rights)
            except NotFound:
                path = os.path.dirname(path)
                continue
            try:
                if path == place.path:
                    _check(location, path, replace)
                if location.stat is None:
                    location.check_replaceable()
            except BaseException:
                location.close()
                raise
            return location

    def _draft(self, near: Location) -> Draft:
        if self._goes_beside(near):
            with suppress_refusals():
                return self._drafts.beside(near)
        return self._drafts.within()

    def _goes_beside(self, near: Location) -> bool:
        return not (self._drafts.reaches(near) or _must_stay(near) or not _may_replace(near))

    def _take_place(
        self, draft: Draft, place: Place, location: Location, replace: bool, mode: int | None
    ) -> os.stat_result:
        refused = self._rename(draft, place, location, replace, mode)
        if refused == errno.EXDEV:
            with suppress_refusals(), self._drafts.beside(location) as copy:
                allocate(copy.fd, 0, draft.size)
                copy_file(draft.fd, copy.fd, draft.size)
                copy.seal()
                refused = self._rename(copy, place, location, replace, mode)
                if not refused:
                    return os.fstat(copy.fd)
        return self._fill(draft, place, location) if refused else os.fstat(draft.fd)

    def _rename(self, draft: Draft, place: Place, location: Location, replace: bool, mode: int | None) -> int:
        """The errno of a mount that refuses, else 0."""
        _inherit(draft, location)
        settle(draft.fd, location.stat, place, durable=self._durable, mode=mode, above=location.dir_fd)
        hit("write.before_rename")
        try:
            draft.move(location, replace=replace)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            return error.errno
        if self._durable:
            sync_upwards(location.dir_fd)
        return 0

    def _fill(self, draft: Draft, place: Place, location: Location) -> os.stat_result:
        """Copies the draft into the file, which is made where nothing is."""
        if location.stat is None:
            return self._make(draft, place, location)
        with self._opened(place, os.O_WRONLY) as opened:
            if stat.S_ISREG(opened.stat.st_mode) and not generated.is_of_kernel(opened.fd):
                once(IN_PLACE, opened.stat.st_dev)
            self._pour(draft, opened.fd, place.path)
            user = place.user
            if user is not None and not location.rights and stat.S_ISREG(opened.stat.st_mode):
                with unless_mount_refuses(opened.fd, "owners"):
                    os.fchown(opened.fd, user.uid, user.gid)
            return os.fstat(opened.fd)

    def _make(self, draft: Draft, place: Place, location: Location) -> os.stat_result:
        fd = os.open(location.name, _NEW, 0o600, dir_fd=location.dir_fd)
        try:
            once(IN_PLACE, os.fstat(fd).st_dev)
            self._pour(draft, fd, place.path)
            settle(fd, None, place, durable=self._durable, above=location.dir_fd)
            return os.fstat(fd)
        except BaseException:
            os.unlink(location.name, dir_fd=location.dir_fd)
            raise
        finally:
            os.close(fd)

    def _pour(self, draft: Draft, fd: int, path: str) -> None:
        found = os.fstat(fd)
        with _as_the_kernel_says(path):
            if stat.S_ISREG(found.st_mode):
                allocate(fd, 0, draft.size)
            offset = 0
            while piece := memoryview(os.pread(draft.fd, _PIECE, offset)):
                offset += len(piece)
                while piece:
                    piece = piece[os.write(fd, piece) :]
            if found.st_size > offset:
                os.ftruncate(fd, offset)
            if self._durable and stat.S_ISREG(found.st_mode):
                os.fsync(fd)

    def _append(self, place: Place, content: bytes) -> Entry:
        with self._opened(place, os.O_WRONLY | os.O_APPEND) as opened:
            with os_errors("append to", place.path), _as_the_kernel_says(place.path):
                self._drafts.check_floor(opened.fd, len(content))
                done = os.write(opened.fd, content) if content else 0
                if done < len(content):
                    end = os.lseek(opened.fd, 0, os.SEEK_CUR)
                    if os.fstat(opened.fd).st_size == end:
                        os.ftruncate(opened.fd, end - done)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self._durable and stat.S_ISREG(opened.stat.st_mode):
                    os.fsync(opened.fd)
                return self._files.entry(opened.path, os.fstat(opened.fd))

    def _opened(self, place: Place, flags: int) -> Opened:
        """What is there, for writing. It is looked at first: opening a FIFO or a socket would act on it."""
        with self._root.open(place.path, os.O_PATH, rights=place.rights) as seen:
            _check_kind(seen.stat, place.path)
        opened = self._root.open(place.path, flags, rights=place.rights)
        try:
            _check_kind(opened.stat, place.path)
            generated.refuse_own(self._root, opened, place.path)
        except BaseException:
            opened.close()
            raise
        return opened


def _check(location: Location, path: str, replace: bool) -> None:
    if location.stat is None:
        if generated.is_of_kernel(location.dir_fd):
            raise PermissionDenied(f"cannot make {path!r}: what is there is made by the kernel alone", path=path)
        return
    if not replace:
        raise Conflict(f"{path!r} exists: remove it, or choose another name", path=path)
    _check_kind(location.stat, path)


def _check_kind(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectory(f"{path!r} is a directory: name a file", path=path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        raise Conflict(f"{path!r} is a FIFO, a socket or a disk, and no file: write to it by a command", path=path)


def _must_stay(location: Location) -> bool:
    """Whether what is there keeps its inode whatever is done: a device, a mount of its own, what the kernel makes."""
    found = location.stat
    if found is None:
        return False
    if stat.S_ISCHR(found.st_mode) or generated.is_of_kernel(location.dir_fd):
        return True
    return syscalls.mount_id(location.dir_fd, location.name) != syscalls.mount_id(location.dir_fd)


def _inherit(draft: Draft, location: Location) -> None:
    """As a write would, this leaves the file its access control list: without it the mode would mean something else."""
    if location.stat is not None:
        with suppress(FileNotFoundError):
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            with Descriptor(os.open(location.name, flags, dir_fd=location.dir_fd)) as old:
                copy_attributes(old.fd, draft.fd, OF_ANY_COPY)


def _may_replace(location: Location) -> bool:
    """Whether those whose rights count may put another file in its place; False where it may be written to at most."""
    try:
        location.check_replaceable()
    except PermissionDenied:
        if location.stat is None:
            raise
        return False
    return True


@contextmanager
def _as_the_kernel_says(path: str) -> Iterator[None]:
    """What is written to devices and to files of the kernel's own is refused for reasons of theirs."""
    try:
        yield
    except OSError as error:
        if translate(error, "write", path) is not None:
            raise
        raise Conflict(f"cannot write {path!r}: the kernel says {error.strerror!r}", path=path) from error
