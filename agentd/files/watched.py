"""What a watch knows of the tree that it follows: `Watched`. Blocking, one job at a time.

The kernel watches directories one by one, and tells of changes by a directory's number and a name (inotify(7)), so the
tree's shape is kept here. A directory is watched first and listed then: what was made in between is in the list, and
its notice, which comes later, tells nothing new. Each directory keeps the names in it, so a file that is renamed into
place from elsewhere, as by an atomic write, is known for a new one or for one that was overwritten.

Directories are opened by their path through `Root`, each time with the caller's rights, and only what came out of that
is watched. A directory that arrives by a rename is looked at before its name is told, as the daemon's own tree may have
been given any name. A notice tells of the past: where something else is there by now, later notices say why.
"""

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice

from agentd.errors import (
    AgentError,
    InvalidRequest,
    NotADirectory,
    NotFound,
)
from agentd.files.directories import Allowance, Directories, Directory, Displaced, Left, Names
from agentd.files.event import (
    CHMOD,
    CREATE,
    MOVED,
    OVERFLOW,
    REMOVE,
    REMOVED,
    RENAME,
    UNMOUNTED,
    WRITE,
    Event,
)
from agentd.files.sight import PRIVATE, Sight, View
from agentd.linux import inotify, syscalls
from agentd.linux.inotify import Notice
from agentd.linux.oserrors import os_errors
from agentd.linux.places import Place
from agentd.linux.reserved import inode
from agentd.linux.root import Opened, Root

_LOOKS = 16  # readings within which a rename has been told of, unless names change all the time
BATCH_LIMIT = 16384  # events, as many as the kernel queues by default

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_OPEN_ABOVE = os.O_PATH | os.O_DIRECTORY
_PSEUDO = frozenset({syscalls.PROC_SUPER_MAGIC, 0x62656572, 0x63677270, 0x27E0EB})  # and SYSFS, CGROUP2, CGROUP


class Watched:
    """A directory, its tree, or a file, with the kernel watching. ended: why there is nothing more to read.

    A file is watched by way of its directory, so it may be replaced, or go and come back.
    """

    def __init__(self, root: Root, place: Place, *, recursive: bool, limit: int, allowance: Allowance) -> None:
        """limit: of directories. Raises NotFound, InvalidRequest for neither a directory nor a file, PermissionDenied,
        PathReserved, CapacityExceeded."""
        self.ended: str | None = None
        self._root = root
        self._place = place
        self._recursive = recursive
        self._limit = limit
        self._allowance = allowance
        self._is_over: Callable[[], bool] = lambda: False
        self._events: list[Event] = []
        self._lost = False
        self._astray = False
        self._confused = False
        self._readings = 0
        self._displaced: dict[tuple[int, str], Displaced] = {}
        self._missed: dict[tuple[int, str], tuple[Directory, int]] = {}
        self._older = self._displaced
        self._only: str | None = None
        self._begin()

    @property
    def fd(self) -> int:
        """Readable when there is something to read; another one after an overflow."""
        return self._directories.inotify.fd

    def close(self) -> None:
        self._directories.close()

    def read(self, is_over: Callable[[], bool] = lambda: False) -> list[Event]:
        """What happened, in order: at most `BATCH_LIMIT` events, and `OVERFLOW` behind them where some were lost.

        is_over: asked between two notices, of which the kernel's queue has many thousands in a tree that never rests;
        once it says so nobody wants the rest.
        """
        self._is_over = is_over
        self._events, self._lost = [], False
        self._readings += 1
        notices = self._directories.inotify.read()
        self._apply(notices)
        if self._astray and self.ended is None:
            self._apply(self._directories.inotify.read())
            self.ended = self.ended or MOVED
        if any(notice.mask & inotify.Q_OVERFLOW for notice in notices):
            self._confused = True
        if self._confused and self.ended is None and not is_over():
            self._begin_again()
        if self._lost:
            self._events.append(Event(OVERFLOW, self.path, ""))
        return self._events

    # -- beginning

    def _begin(self) -> None:
        self._directories = Directories(self._limit, self._allowance)
        try:
            self._watch_top()
        except BaseException:
            self.close()
            raise

    def _watch_top(self) -> None:
        asked, rights = self._place.path, self._place.rights
        with self._root.open(asked, os.O_PATH, rights=rights) as found:
            self.path, kind = found.path, stat.S_IFMT(found.stat.st_mode)
        above, _, name = self.path.rpartition("/")
        if kind == stat.S_IFDIR:
            self._view = View(self._root, asked, self.path, self._place)
            with self._root.open(asked, _OPEN_DIRECTORY, rights=rights) as opened:
                self._begin_with(opened)
                if name:
                    # It tells of the removal at once; the directory itself does when nobody works in it any more.
                    with suppress(AgentError), self._root.open(above or "/", _OPEN_ABOVE) as parent:
                        self._directories.watch_above(parent)
                self._descend(self._list(self._top, opened.fd, told=False), told=False)
        elif kind == stat.S_IFREG:
            self._only = name
            self._view = View(self._root, above or "/", above or "/", self._place)
            # Who may read the file may know when it changes, whether or not its directory can be read.
            self._root.open(asked, os.O_RDONLY, rights=rights).close()
            with self._root.open(above or "/", _OPEN_ABOVE) as opened:
                self._begin_with(opened)
            self._top.names.add(name)
        else:
            raise InvalidRequest(f"cannot watch {asked!r}: it is neither a directory nor a file", path=asked)

    def _begin_with(self, opened: Opened) -> None:
        top = self._directories.watch(opened)
        assert top is not None
        self._top = top

    def _begin_again(self) -> None:
        """Nothing that is known counts any more. This is told after the tree is watched again."""
        path, identity = self.path, self._top.identity
        self.close()
        self._lost, self._confused = True, False
        try:
            self._begin()
        except (NotFound, NotADirectory):
            self.ended = REMOVED
        else:
            if path != self.path or identity != self._top.identity:
                self.ended = MOVED

    # -- what the notices say

    def _apply(self, notices: Sequence[Notice]) -> None:
        self._older, self._displaced = self._displaced, {}
        arriving = {notice.cookie for notice in notices if notice.mask & inotify.MOVED_TO and self._concerned(notice)}
        left: dict[int, Left] = {}
        for at, notice in enumerate(notices):
            if self.ended is not None or self._is_over():
                return
            where = self._concerned(notice)
            if where is None:
                self._look_above(notice)
                if notice.mask & inotify.MOVED_TO and notice.cookie in left:
                    self._finish(left.pop(notice.cookie))  # its directory has left itself
            elif not notice.name:
                self._on_itself(where, notice)
            elif notice.mask & inotify.MOVED_FROM:
                leaving = self._leave(where, notice, islice(notices, at + 1, None))
                if notice.cookie in arriving:
                    left[notice.cookie] = leaving
                else:
                    self._finish(leaving)
            elif notice.mask & inotify.MOVED_TO:
                self._arrive(where, notice, left.pop(notice.cookie, None))
            else:
                self._on_entry(where, notice)
        for leaving in left.values():
            self._finish(leaving)
        for displaced in self._displaced.values():
            self._forget_if_detached(displaced.directory)
        self._look_again()

    def _concerned(self, notice: Notice) -> Directory | None:
        return self._directories.find(notice.wd) if not notice.name or self._only in (None, notice.name) else None

    def _look_above(self, notice: Notice) -> None:
        if (
            self._directories.is_above(notice.wd)
            and notice.mask & inotify.DELETE
            and self.path.endswith(f"/{notice.name}")
        ):
            self._end(REMOVED, notice)

    def _on_itself(self, where: Directory, notice: Notice) -> None:
        if where is not self._top:
            if notice.mask & (inotify.IGNORED | inotify.UNMOUNT):
                self._directories.forget(where)
        elif notice.mask & inotify.ATTRIB:
            if self._only is None:
                self._tell(Event(CHMOD, self.path, "", is_dir=True, mask=notice.mask))
        elif notice.mask & inotify.UNMOUNT:
            self._end(UNMOUNTED, notice)
        else:
            self._end(MOVED if notice.mask & inotify.MOVE_SELF else REMOVED, notice)

    def _end(self, reason: str, notice: Notice) -> None:
        self.ended = reason
        if reason == REMOVED:
            name = self._only or ""
            self._tell(Event(REMOVE, self.path, name, is_dir=self._only is None, mask=notice.mask))

    def _on_entry(self, where: Directory, notice: Notice) -> None:
        name, mask = notice.name, notice.mask
        if mask & inotify.CREATE:
            self._appear(where, notice)
        elif mask & inotify.DELETE:
            self._missed.pop((where.wd, name), None)
            if name in where.below:
                self._directories.forget(where.below[name])
            if where.names.discard(name):
                self._tell_of(REMOVE, where, notice)
        elif name in where.names:
            self._tell_of(WRITE if mask & inotify.MODIFY else CHMOD, where, notice)

    def _appear(self, where: Directory, notice: Notice) -> None:
        name, is_dir = notice.name, notice.mask & inotify.ISDIR
        if name in where.names and not (self._recursive and is_dir and name not in where.below):
            # Notices from before a directory was listed are among the next ones that are read.
            self._confused = self._confused or where.listed + 1 < self._readings
            return
        found = self._look_if_needed(where, notice)
        if found is Sight.HIDDEN or (found is Sight.GONE and name.startswith(PRIVATE)):
            return
        if name not in where.names:
            where.names.add(name)
            self._tell_of(CREATE, where, notice)
        if isinstance(found, Opened):
            self._enter(where, name, found)

    def _leave(self, where: Directory, notice: Notice, later: Iterable[Notice]) -> Left:
        """An exchange (renameat2(2), RENAME_EXCHANGE) tells first of what comes to a name, then of what leaves it: that
        was told to be replaced, and is new where it arrives."""
        key = (where.wd, notice.name)
        is_bare = self._missed.pop(key, None) is not None
        displaced = self._displaced.pop(key, None) or self._older.pop(key, None)
        if displaced is not None:
            self._forget_if_detached(displaced.directory)
            self._missed[key] = where, _LOOKS
        if displaced is not None and notice.name in where.names:
            found = self._view.status(where, notice.name)
            self._confused = self._confused or any(self._is_doubtful(where, notice, other) for other in later)
            if found is not None and inode(found) == displaced.by:
                self._confused = self._confused or bool(displaced.is_file and notice.mask & inotify.ISDIR)
                return Left(where.path(notice.name), notice, None, known=False, is_bare=True)
        directory = where.below.get(notice.name)
        if directory is not None:
            directory.detach()
        known = where.names.discard(notice.name)
        return Left(where.path(notice.name), notice, directory, known, is_bare)

    def _is_doubtful(self, where: Directory, notice: Notice, later: Notice) -> bool:
        """Whether what is found by the notice's name now may be something else than it was then."""
        if later.name == notice.name and later.wd == notice.wd:
            return True
        moved = self._directories.find(later.wd) if later.mask & inotify.MOVE_SELF else None
        return moved is not None and where.is_within(moved)

    def _finish(self, left: Left) -> None:
        """It left for a place that is not watched."""
        if left.known:
            is_dir = bool(left.notice.mask & inotify.ISDIR)
            self._tell(Event(REMOVE, self._view.absolute(left.path), left.path, is_dir, mask=left.notice.mask))
        self._forget_if_detached(left.directory)

    def _arrive(self, where: Directory, notice: Notice, left: Left | None) -> None:
        name = notice.name
        found = self._look_if_needed(where, notice)
        if left is not None and not left.is_bare and self._recursive:
            came = self._directories.watch(found) if isinstance(found, Opened) else None
            if came is not left.directory:
                self._finish(left)  # what was told of it is not true of what is there
                left = None
        replaces, whole = name in where.names, name in where.below
        self._displace(where, notice, is_file=replaces)
        if found is Sight.HIDDEN or (found is Sight.GONE and notice.mask & inotify.ISDIR):
            if where.names.discard(name):
                self._tell_of(REMOVE, where, notice)
            if left is not None:
                self._finish(left)
            return
        where.names.add(name)
        if left is not None and left.known:
            self._tell_of(RENAME, where, notice, self._view.absolute(left.path))
        else:
            new = (CREATE,) if notice.mask & inotify.ISDIR else (CREATE, CHMOD, WRITE)
            for kind in new if not replaces else (WRITE,) if len(new) > 1 and not whole else (REMOVE, *new):
                self._tell_of(kind, where, notice)
        if isinstance(found, Opened):
            self._enter(where, name, found, None if left is None else left.directory)

    def _displace(self, where: Directory, notice: Notice, *, is_file: bool) -> None:
        found, directory = self._view.status(where, notice.name), where.below.get(notice.name)
        if directory is not None:
            directory.detach()
        over = notice.mask & inotify.ISDIR or directory is not None
        self._displaced[where.wd, notice.name] = Displaced(found and inode(found), directory, is_file and not over)

    # -- looking

    def _look_if_needed(self, where: Directory, notice: Notice) -> Opened | Sight | None:
        """None for what is no directory, and hides nothing."""
        if notice.mask & inotify.ISDIR:
            return self._look(where, notice.name)
        return Sight.HIDDEN if self._view.is_reserved(where, notice.name) else None

    def _look(self, where: Directory, name: str) -> Opened | Sight:
        found = self._view.look(where, name)
        if found is Sight.GONE:
            self._missed[where.wd, name] = where, _LOOKS
            self._astray = not self._view.has_top(self._top.identity)
        return found

    def _look_again(self) -> None:
        """What was not found where a notice had it: a directory above had been renamed, and that is known by now. Or it
        is gone, and the next notice says so."""
        missed, self._missed = self._missed, {}
        for (wd, name), (where, looks) in missed.items():
            if self._directories.find(wd) is not where:
                continue
            found = self._view.status(where, name)
            if found is None:
                if looks:
                    self._missed[wd, name] = where, looks - 1
                continue
            sight = self._look(where, name) if stat.S_ISDIR(found.st_mode) else None
            if sight in (Sight.HIDDEN, Sight.GONE):
                continue
            if name not in where.names:
                where.names.add(name)
                where.listed = self._readings
                for kind in (CREATE,) if sight else (CREATE, WRITE):
                    self._tell(self._found(kind, where.path(name), is_dir=sight is not None))
            if isinstance(sight, Opened) and name not in where.below:
                self._enter(where, name, sight)

    def _enter(self, where: Directory, name: str, opened: Opened, moved: Directory | None = None) -> None:
        with opened:
            if self._recursive:
                self._descend(self._follow(where, name, opened, told=True, moved=moved), told=True)

    def _descend(self, pending: list[tuple[Directory, str]], *, told: bool) -> None:
        """Looks at directories, and follows them and what is in them; those that may not be seen are forgotten."""
        while pending and not self._is_over():
            where, name = pending.pop()
            found = self._look(where, name)
            if found is Sight.HIDDEN or found is Sight.GONE:
                where.names.discard(name)
                continue
            if told:
                self._tell(self._found(CREATE, where.path(name), is_dir=True))
            if isinstance(found, Opened):
                with found:
                    if self._recursive:
                        pending += self._follow(where, name, found, told=told)

    def _follow(
        self, where: Directory, name: str, opened: Opened, *, told: bool, moved: Directory | None = None
    ) -> list[tuple[Directory, str]]:
        """Watches a directory. Those in it that are to be looked at; none where ``moved`` is the one, as it is watched
        with all below it."""
        if syscalls.file_system_type(opened.fd) in _PSEUDO:
            return []
        directory = self._directories.watch(opened, where, name)
        if directory is None or where.is_within(directory):
            # A mount of what is above; a directory that has come by a rename was elsewhere before.
            self._confused = self._confused or (directory is not None and directory is moved)
            return []
        directory.attach(where, name)
        if directory is moved:
            return []
        for known in [*directory.below.values()]:
            self._directories.forget(known)
        return self._list(directory, opened.fd, told=told)

    def _list(self, where: Directory, fd: int, *, told: bool) -> list[tuple[Directory, str]]:
        """Takes down the names in it. Those of directories that are to be looked at."""
        names, doubtful = [], []
        every = self._recursive or self._root.contains_reserved(fd)
        with os_errors("list", self._view.absolute(where.path(""))), os.scandir(fd) as entries:
            for entry in entries:
                names.append(entry.name)
                is_dir = entry.is_dir(follow_symlinks=False)
                if is_dir and (every or entry.name.startswith(PRIVATE)):
                    doubtful.append((where, entry.name))
                elif self._view.is_reserved(where, entry.name):
                    names.pop()
                elif told:
                    self._tell_of_file(where.path(entry.name), entry)
        where.names, where.listed = Names(names), self._readings
        return doubtful

    # -- forgetting and telling

    def _forget_if_detached(self, directory: Directory | None) -> None:
        if directory is not None and not directory.is_attached:
            self._directories.forget(directory)

    def _tell_of(self, kind: str, where: Directory, notice: Notice, old_path: str | None = None) -> None:
        path = where.path(notice.name)
        is_dir = bool(notice.mask & inotify.ISDIR)
        self._tell(Event(kind, self._view.absolute(path), path, is_dir, old_path, notice.mask))

    def _tell_of_file(self, path: str, entry: os.DirEntry[str]) -> None:
        """As it would have been told of by the kernel, had it been asked in time."""
        self._tell(self._found(CREATE, path))
        with suppress(OSError):
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
                self._tell(self._found(WRITE, path))

    def _found(self, kind: str, path: str, *, is_dir: bool = False) -> Event:
        return Event(kind, self._view.absolute(path), path, is_dir)

    def _tell(self, event: Event) -> None:
        if self._events and self._events[-1] == event:
            return
        if len(self._events) >= BATCH_LIMIT:
            self._lost = True
        else:
            self._events.append(event)
