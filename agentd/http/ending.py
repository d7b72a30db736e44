"""The end of the server, or of a part of what it serves, for what would not end by itself: streams that follow
something, and sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakSet

LAST_WORDS_SECONDS = 1.0


class Ending:
    """begun: set once it ends. What is `lasting` then has a second for its last words. word, why: for the client, as
    ``draining`` and ``the daemon ends``. within: what this ends with, at the latest."""

    def __init__(self, within: "Ending | None" = None) -> None:
        self.begun = asyncio.Event()
        self.word = self.why = ""
        self._lasting: set[asyncio.Timeout] = set()
        self._parts: WeakSet[Ending] = WeakSet()
        if within is not None:
            within._parts.add(self)
            if within.begun.is_set():
                self.begin(within.word, within.why)

    def begin(self, word: str, why: str) -> None:
        """Again is harmless, and says nothing new."""
        if self.begun.is_set():
            return
        self.word, self.why = word, why
        self.begun.set()
        for scope in self._lasting:
            end_soon(scope)
        for part in self._parts:
            part.begin(word, why)

    @asynccontextmanager
    async def lasting(self) -> AsyncIterator[asyncio.Timeout]:
        """Whatever runs inside is ended by TimeoutError, a second after the end has begun."""
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
