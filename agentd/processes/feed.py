"""Writing to a pipe or a terminal, at the pace of whoever reads it."""

import asyncio
import os

from agentd.linux.descriptor import Descriptor


class Feed:
    """end: non-blocking, and owned from here on."""

    def __init__(self, end: Descriptor) -> None:
        self._end = end
        self._turn = asyncio.Lock()
        self._free: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def closed(self) -> bool:
        return self._end.fd < 0

    async def write(self, content: bytes) -> bool:
        """Returns once all is taken; False where nobody can read it any more, or after `cut`."""
        rest = memoryview(content)
        async with self._turn:
            while rest and not self.closed:
                try:
                    rest = rest[os.write(self._end.fd, rest) :]
                except BlockingIOError:
                    await self._room()
                except OSError:  # EPIPE of a pipe, EIO of a terminal that was hung up
                    return False
        return not rest

    async def close(self) -> None:
        """After what is being written."""
        async with self._turn:
            self.cut()

    def cut(self) -> None:
        """At once. Whoever writes is told."""
        if not self.closed:
            self._loop.remove_writer(self._end.fd)
            self._end.close()
        self._wake()

    async def _room(self) -> None:
        self._free = self._loop.create_future()
        self._loop.add_writer(self._end.fd, self._wake)
        try:
            await self._free
        finally:
            if not self.closed:
                self._loop.remove_writer(self._end.fd)

    def _wake(self) -> None:
        if self._free is not None and not self._free.done():
            self._free.set_result(None)
