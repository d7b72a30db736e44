"""How a staged object becomes the target: by one rename, with its final owner and mode already on it.

Two steps with a journal record between them. ``stage`` looks at the target, decides by the table of `core.conflict`,
and brings the object into its final form; it can be repeated at will. ``act`` renames, exchanges or merges. After a
crash between the two, ``was_published`` tells by inode whether ``act`` happened.

Where the target is on another file system, the object is staged beside the target: in a directory of the daemon's own
(0700) whose name a later daemon can derive, under a name that only daemons know. So whoever may rename things there can
put nothing in its place for the daemon to publish or to delete. All methods here block.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress

import msgspec

from agentd.core.conflict import ConflictMode, Existing, Kind, Method, decide
from agentd.core.parts import Span
from agentd.errors import AgentError, Conflict, NotADirectory, PathReserved, TargetConflict
from agentd.failpoints import hit
from agentd.linux import trees
from agentd.linux.copying import allocate, copy_file
from agentd.linux.descriptor import Descriptor
from agentd.linux.features import can_exchange
from agentd.linux.identity import Identity
from agentd.linux.mounts import check_no_mount_below
from agentd.linux.oserrors import PUBLISH, os_errors
from agentd.linux.places import Place, Places
from agentd.linux.private import private_directory
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Location, Opened, Root
from agentd.linux.settling import MOUNT_REFUSALS, fill, movable, rename_new, settle, sync_upwards
from agentd.linux.syscalls import RENAME_EXCHANGE, renameat2
from agentd.uploads.archive import ArchiveLimits, unpack
from agentd.uploads.journal import Header, Intent
from agentd.uploads.staging import DATA, TREE, Files, reserve

_log = logging.getLogger("agentd.uploads")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Staged(msgspec.Struct):
    """An object in its final form, and where it goes. ``source`` is the directory fd under which it is ``name``.

    moved: it is the target now. far: it cannot be, from where it lies. keep: closes what is open, the replaced file
    among it, whose blocks are then freed; that takes longer than the rename.
    """

    location: Location
    source: int
    name: str
    beside: bool
    method: Method
    inode: int
    files: int
    private: str
    keep: ExitStack
    moved: bool = False
    far: bool = False

    def discard(self) -> None:
        """Removes what did not become the target, or what an exchange brought back, and closes."""
        with self.keep:
            if self.name != DATA:
                trees.remove(self.source, self.name)


class Publisher:
    """reserved: the daemon's own tree, which nothing is published into."""

    def __init__(self, root: Root, places: Places, archive: ArchiveLimits, *, reserved: Inode) -> None:
        self._root = root
        self._places = places
        self._archive = archive
        self._reserved = reserved

    def stage(self, header: Header, files: Files, beside: bool, stop: Callable[[], bool]) -> Staged:
        """Brings the upload's content into its final form. ``beside``: next to the target, as the staging area's own
        place has turned out to be on another file system."""
        asked = self._places.find(header.path, header.user)
        with ExitStack() as keep, os_errors("publish", header.path, PUBLISH):
            first = keep.enter_context(self._locate(header, asked))
            beside = beside or os.fstat(first.dir_fd).st_dev != os.fstat(files.directory).st_dev
            if beside:
                source = keep.enter_context(_private(first.dir_fd, header, make=True))
            else:
                source = os.dup(files.directory)
                keep.callback(os.close, source)
            name = _name(header, beside)
            if header.kind is Kind.FILE:
                made, count = self._stage_file(header, files, source, name, beside, stop), 1
            else:
                made, count = self._stage_tree(header, files, source, name, asked.owner, stop)
            keep.callback(os.close, made)
            try:
                place = keep.enter_context(self._locate(header, asked))
                method = self._decide(header, place)
                if method is not Method.MERGE:
                    settle(made, place.stat, asked, durable=header.durable, above=place.dir_fd)
                self._hold(place, method, keep)
                hit("complete.after_chown")
                found = os.fstat(made)
                return Staged(
                    place, source, name, beside, method, found.st_ino, count, _private_name(header), keep.pop_all()
                )
            except BaseException:
                if name != DATA:
                    trees.remove(source, name)
                raise

    def act(self, staged: Staged, header: Header) -> None:
        """Makes the staged object the target. Where it lies on another file system than the target, and not beside it,
        and where something that may stay has come to be there, nothing happens: ``moved`` stays False."""
        path = header.path
        with os_errors("publish", path, PUBLISH):
            try:
                if staged.method is Method.MERGE:
                    self._merge(staged, path, header.durable)
                else:
                    _rename(staged)
            except OSError as error:
                if error.errno == errno.EXDEV and not staged.beside:
                    staged.far = True
                    return
                if error.errno == errno.EEXIST and header.conflict is not ConflictMode.ERROR:
                    return
                if header.kind is Kind.FILE and error.errno in MOUNT_REFUSALS:
                    _fill(staged, header.durable)
                elif staged.method is Method.EXCHANGE and error.errno in (errno.EXDEV, errno.EINVAL):
                    # overlayfs does not rename directories of its lower layer, other file systems know no exchange.
                    if error.errno == errno.EINVAL and can_exchange(staged.source):
                        raise _holds_reserved(path) from error
                    self._merge(staged, path, header.durable, alone=True)
                else:
                    raise
            staged.moved = True

    def sync(self, staged: Staged) -> None:
        """Makes the rename last: the directories on both sides, and those that were made on the way."""
        fd = os.open(".", _DIRECTORY, dir_fd=staged.source)
        os.fsync(fd)
        os.close(fd)
        sync_upwards(staged.location.dir_fd)

    def was_published(self, header: Header, files: Files, intent: Intent) -> bool:
        """Whether what ``intent`` announced happened. In doubt it did not: it is repeated, from what is still there.

        A merge is not known to be done. Device numbers, and on some file systems inode numbers, change when a file
        system is mounted again: one that is the same proves something, one that is another does not.
        """
        if intent.method == Method.MERGE.value:
            return False
        staged = None
        with suppress(AgentError, FileNotFoundError), ExitStack() as stack:
            directory = files.directory
            if intent.beside:
                place = stack.enter_context(self._root.locate(header.path))
                directory = stack.enter_context(_private(place.dir_fd, header, make=False))
            try:
                staged = os.stat(_name(header, bool(intent.beside)), dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return intent.method != Method.EXCHANGE.value
            if intent.method != Method.EXCHANGE.value:
                return header.kind is Kind.FILE and staged.st_nlink > 1
        if staged is not None and staged.st_ino == intent.inode:
            return False
        with suppress(AgentError), self._root.locate(header.path) as place:
            device = os.fstat(place.dir_fd).st_dev
            return place.stat is not None and inode(place.stat) == (device, intent.inode)
        return False

    def open_target(self, header: Header) -> Opened:
        """The file that stands at the target, for reading. Raises what `Root.open` raises, Conflict for no file."""
        opened = self._root.open(header.path, os.O_RDONLY)
        if not stat.S_ISREG(opened.stat.st_mode):
            opened.close()
            raise Conflict(f"{header.path!r} is no file", path=header.path)
        return opened

    def clean_beside(self, header: Header) -> None:
        """Removes what was staged beside the target and has not become it."""
        with suppress(AgentError, OSError), self._root.locate(header.path) as place:
            with _private(place.dir_fd, header, make=False) as private:
                trees.remove(private, _name(header, beside=True))

    def clean_all_beside(self, headers: list[Header]) -> None:
        """As `clean_beside`, for uploads whose completion a crash may have interrupted."""
        for header in headers:
            self.clean_beside(header)

    # -- inside

    def _locate(self, header: Header, asked: Place) -> Location:
        try:
            place = self._root.locate(header.path, make_parents=asked.owner, rights=asked.rights)
        except NotADirectory as error:
            raise TargetConflict(error.detail, path=header.path) from error
        try:
            place.check_replaceable()
            self._decide(header, place)
        except BaseException:
            place.close()
            raise
        return place

    def _decide(self, header: Header, place: Location) -> Method:
        mode = None if place.stat is None else place.stat.st_mode
        return decide(header.kind, header.conflict, Existing.of(mode), header.path)

    def _hold(self, place: Location, method: Method, keep: ExitStack) -> None:
        """Holds what is replaced open, so that its blocks are not freed within the rename. PathReserved where the
        daemon's own tree would go with it, Conflict where a mount would."""
        with suppress(FileNotFoundError):
            fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.dir_fd)
            keep.callback(os.close, fd)
            if method is Method.EXCHANGE:
                if self._root.contains_reserved(fd):
                    raise _holds_reserved(place.path)
                check_no_mount_below(fd, place.path)

    def _stage_file(
        self, header: Header, files: Files, source: int, name: str, beside: bool, stop: Callable[[], bool]
    ) -> int:
        if beside:
            trees.remove(source, name)
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=source)
            try:
                if floor := self._floor(source, files):
                    reserve(fd, Span(0, header.size), floor)
                else:
                    allocate(fd, 0, header.size)
                copy_file(files.data, fd, header.size, stop)
                hit("complete.after_copy")
            except BaseException:
                os.unlink(name, dir_fd=source)
                raise
            finally:
                os.close(fd)
        # A file that is open for writing cannot be executed (ETXTBSY), and this one is the target before it is closed.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)

    def _stage_tree(
        self, header: Header, files: Files, source: int, name: str, owner: Identity, stop: Callable[[], bool]
    ) -> tuple[int, int]:
        trees.remove(source, name)
        os.mkdir(name, 0o700, dir_fd=source)
        fd = -1
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=source)
            limits = msgspec.structs.replace(self._archive, free_floor=self._floor(source, files))
            unpacked = unpack(files.data, header.size, fd, limits, (owner.uid, owner.gid), stop)
            if header.durable:
                trees.sync_tree(fd)
            hit("complete.after_unpack")
        except BaseException:
            if fd >= 0:
                os.close(fd)
            trees.remove(source, name)
            raise
        return fd, unpacked.files

    def _floor(self, source: int, files: Files) -> int:
        """Bytes that stay free where the object is staged: none on other file systems than the staging area's."""
        same = os.fstat(source).st_dev == os.fstat(files.directory).st_dev
        return self._archive.free_floor if same else 0

    def _merge(self, staged: Staged, path: str, durable: bool, *, alone: bool = False) -> None:
        """Entry by entry. ``alone``: what the target has besides goes first; so much for atomicity."""
        place = staged.location

        def allowed(dir_fd: int, name: str) -> None:
            """As `Location.check_replaceable`, for an entry further down."""
            with Location(os.dup(dir_fd), name, f"{path}/{name}", None, place.rights) as entry:
                entry.check_replaceable()

        with ExitStack() as stack:
            source = os.open(staged.name, _DIRECTORY, dir_fd=staged.source)
            stack.callback(os.close, source)
            target = os.open(place.name, _DIRECTORY, dir_fd=place.dir_fd)
            stack.callback(os.close, target)
            check = allowed if place.rights else None
            if alone:
                if self._root.contains_reserved(target):
                    raise _holds_reserved(path)
                _log.warning("trees cannot be exchanged here: %s is replaced entry by entry", staged.name)
                trees.prune(source, target, check)
            trees.merge(
                *(source, target, lambda: hit("merge.after_entry"), check),
                reserved=self._reserved,
                durable=durable,
                private=staged.private,
            )


def _rename(staged: Staged) -> None:
    place = staged.location
    moved = [(staged.source, staged.name)]
    if staged.method is Method.EXCHANGE:
        moved.append((place.dir_fd, place.name))
    with movable(*moved):
        match staged.method:
            case Method.EXCHANGE:
                renameat2(staged.source, staged.name, place.dir_fd, place.name, RENAME_EXCHANGE)
            case Method.CREATE:
                rename_new(staged.source, staged.name, place.dir_fd, place.name)
            case _:
                os.rename(staged.name, place.name, src_dir_fd=staged.source, dst_dir_fd=place.dir_fd)


def _fill(staged: Staged, durable: bool) -> None:
    """The staged file goes last: as long as it is there, this was not done (see `Publisher.was_published`)."""
    with Descriptor(os.open(staged.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staged.source)) as source:
        fill(source.fd, staged.location, durable=durable)
    os.unlink(staged.name, dir_fd=staged.source)


def _holds_reserved(path: str) -> PathReserved:
    return PathReserved(f"{path!r} holds a directory of the daemon's own and is not replaced; move that out", path=path)


def _private_name(header: Header) -> str:
    return f".agentd-{header.upload_id}"


def _private(parent: int, header: Header, *, make: bool) -> AbstractContextManager[int]:
    """The directory beside the target, as an fd. Gone afterwards, if it is empty."""
    return private_directory(parent, _private_name(header), make=make)


def _name(header: Header, beside: bool) -> str:
    """What the staged object is called: in the private directory, or in the upload's own."""
    if beside:
        return header.secret
    return DATA if header.kind is Kind.FILE else TREE
