"""How long an upload's files stay open: while somebody holds them, and, where that is allowed, until the next part."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from agentd.linux.threads import in_thread
from agentd.uploads.staging import Files

IDLE_UPLOADS = 16


class Idle:
    """Open files that nobody holds just now, of at most ``most`` uploads: those that were used last."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], object], most: int = IDLE_UPLOADS) -> None:
        self._spawn = spawn
        self._most = most
        self._kept: OrderedDict[Holding, None] = OrderedDict()

    def keep(self, holding: "Holding") -> None:
        self._kept[holding] = None
        if len(self._kept) > self._most:
            oldest, _ = self._kept.popitem(last=False)
            self._spawn(oldest.close())

    def forget(self, holding: "Holding") -> None:
        self._kept.pop(holding, None)


class Holding:
    """The files of one upload. opening(): blocks. lingers(): whether they may stay open when the last holder leaves."""

    def __init__(self, opening: Callable[[], Files], lingers: Callable[[], bool], idle: Idle) -> None:
        self._open = opening
        self._lingers = lingers
        self._idle = idle
        self._files: Files | None = None
        self._holders = 0
        self._opening = asyncio.Lock()
        self._sets = 0  # of files that are open, those that are being closed included
        self._closed = asyncio.Event()
        self._closed.set()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Files]:
        """The open files. OSError where they cannot be opened."""
        self._holders += 1
        self._closed.clear()
        self._idle.forget(self)
        try:
            yield self._files or await self._opened()
        finally:
            self._holders -= 1
            if self._holders == 0 and self._files is not None and self._lingers():
                self._idle.keep(self)
            else:
                await self.close()

    async def close(self) -> None:
        """Closes the files, unless somebody holds them."""
        if self._holders:
            return
        self._idle.forget(self)
        files, self._files = self._files, None
        try:
            if files is not None:
                await in_thread(files.close)
        finally:
            self._sets -= files is not None
            if not (self._holders or self._sets):
                self._closed.set()

    async def closed(self) -> None:
        """Closes the files that linger, and returns when no file is open. To be asked when they may not linger."""
        await self.close()
        await self._closed.wait()

    async def _opened(self) -> Files:
        async with self._opening:
            if self._files is None:
                made: list[Files] = []
                try:
                    await in_thread(lambda: made.append(self._open()))
                finally:
                    if made:
                        self._files = made[0]
                        self._sets += 1
            assert self._files is not None
            return self._files
