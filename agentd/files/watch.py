"""Changes of files as they happen: `Watches`, the owner of all, and `Watch`, one of them.

A watch is read when its reader asks for more. Until then the kernel queues what happens, and where the queue is full
(fs.inotify.max_queued_events) it drops notices and says so, and so does the watch: a slow reader costs a queue of
bounded length, and is told what it missed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from agentd.errors import CapacityExceeded
from agentd.files.directories import Allowance
from agentd.files.event import DRAINING, Event
from agentd.files.watched import Watched
from agentd.linux.places import Place
from agentd.linux.root import Root
from agentd.linux.threads import LONG, in_thread


class WatchLimits(msgspec.Struct, frozen=True):
    """watches: at once. directories: that one may follow, and all together. A directory costs the kernel about 1 KiB,
    and counts for fs.inotify.max_user_watches; a watch counts for fs.inotify.max_user_instances."""

    watches: int = 64
    directories: int = 100_000
    directories_in_all: int = 150_000


class Watch:
    """An iterator of batches of events, none of them empty. It ends with what it watches; ``ended`` says why then.

    path: of what is watched, absolute and resolved, in sandbox terms.
    """

    def __init__(self, watched: Watched, until: asyncio.Event) -> None:
        self._watched = watched
        self._until = until
        self.path = watched.path

    @property
    def ended(self) -> str | None:
        """`event.REMOVED`, `MOVED`, `UNMOUNTED`, or `DRAINING` where the daemon ends; None while it goes on."""
        return self._watched.ended or (DRAINING if self._until.is_set() else None)

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self

    async def __anext__(self) -> list[Event]:
        """One caller at a time. Raises CapacityExceeded, and other errors, where the tree cannot be followed further.

        A cancelled call may lose events: it is for those who end.
        """
        reader = asyncio.current_task()
        assert reader is not None
        while self._watched.ended is None:
            await _readable(self._watched.fd, self._until)
            if self._until.is_set():
                break
            events = await in_thread(self._watched.read, lambda: self._until.is_set() or reader.cancelling() > 0)
            if events:
                return events
        raise StopAsyncIteration


class Watches:
    """All watches of the daemon."""

    def __init__(self, root: Root, limits: WatchLimits | None = None) -> None:
        self._root = root
        self._limits = limits or WatchLimits()
        self._allowance = Allowance(self._limits.directories_in_all)
        self.active = 0

    @asynccontextmanager
    async def watch(
        self, place: Place, *, recursive: bool, until: asyncio.Event | None = None
    ) -> AsyncGenerator[Watch, None]:
        """A watch of a directory, with all below it if ``recursive``, or of a file; every change from now on is told,
        ``until`` that is set.

        The place's rights must allow to read what is watched; directories further down that they may not read are
        told of, but not followed. Links below are not followed, nor are file systems of the kernel's own (/proc).

        Raises NotFound, InvalidRequest for what is neither directory nor file, PermissionDenied, PathReserved,
        TooManyLinks, CapacityExceeded where a limit, ours or the kernel's, is reached.
        """
        if self.active >= self._limits.watches:
            raise CapacityExceeded(
                f"{self.active} watches are open, and no more may be; end one first", limit=self._limits.watches
            )
        self.active += 1
        try:
            watched = await in_thread(self._begin, place, recursive, pool=LONG)
            try:
                yield Watch(watched, until or asyncio.Event())
            finally:
                await in_thread(watched.close)
        finally:
            self.active -= 1

    def _begin(self, place: Place, recursive: bool) -> Watched:
        limit = self._limits.directories
        return Watched(self._root, place, recursive=recursive, limit=limit, allowance=self._allowance)


async def _readable(fd: int, until: asyncio.Event) -> None:
    """Or ``until`` is set."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(event.wait()) for event in (ready, until)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
    finally:
        loop.remove_reader(fd)
