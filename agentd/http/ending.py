"""The end of the server, for what would not end by itself: streams that follow something, and sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LAST_WORDS_SECONDS = 1.0


class Ending:
    """begun: set once the server ends. What is `lasting` then has a second for its last words."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self._lasting: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        self.begun.set()
        for scope in self._lasting:
            end_soon(scope)

    @asynccontextmanager
    async def lasting(self) -> AsyncIterator[asyncio.Timeout]:
        """Whatever runs inside is ended by TimeoutError, a second after the server begins to end."""
        async with asyncio.timeout(None) as scope:
            self._lasting.add(scope)
            try:
                if self.begun.is_set():
                    end_soon(scope)
                yield scope
            finally:
                self._lasting.discard(scope)


def end_soon(scope: asyncio.Timeout) -> None:
    """Leaves what runs inside a second, unless it is being ended already."""
    if not scope.expired():
        scope.reschedule(asyncio.get_running_loop().time() + LAST_WORDS_SECONDS)
