"""What was asked twice is done once: requests with an Idempotency-Key (draft-ietf-httpapi-idempotency-key-header).

stored = await repeats.once(call.headers.get("Idempotency-Key"), (path, digest), store)
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from agentd.errors import InvalidRequest, KeyReused

T = TypeVar("T")

KEY = "Idempotency-Key"
LONGEST = 255


class _Asked(msgspec.Struct):
    """done: set once it is known what became of it; answers: what did, empty where it failed."""

    request: object
    since: float
    done: asyncio.Event
    answers: list[Any]


class Repeats:
    """The answers of the last ``most`` requests with a key, each for ``seconds`` at most."""

    def __init__(self, most: int = 1000, seconds: float = 86400, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._asked: OrderedDict[str, _Asked] = OrderedDict()

    async def once(self, key: str | None, request: object, act: Callable[[], Awaitable[T]]) -> T:
        """What ``act`` gives, or gave when the same ``request`` came with this key before; without a key it acts.

        What failed is forgotten, and acts again. Raises KeyReused where the key came with another request,
        InvalidRequest for what is no key, and what ``act`` raises.
        """
        if key is None:
            return await act()
        if not (0 < len(key) <= LONGEST and key.isprintable()):
            raise InvalidRequest(f"the header {KEY} has to be 1 to {LONGEST} printable characters")
        self._drop_old()
        while (known := self._asked.get(key)) is not None:
            if known.request != request:
                raise KeyReused("this idempotency key came with another request before; use a new one")
            await known.done.wait()
            if known.answers:
                before: T = known.answers[0]
                return before
        asked = self._asked[key] = _Asked(request, self._now(), asyncio.Event(), [])
        self._drop_old()
        try:
            answer = await act()
            asked.answers.append(answer)
            return answer
        finally:
            if not asked.answers:
                self._asked.pop(key, None)
            asked.done.set()

    def _drop_old(self) -> None:
        """The oldest first, as far as they are done."""
        while self._asked:
            key, oldest = next(iter(self._asked.items()))
            is_old = self._now() - oldest.since > self._seconds or len(self._asked) > self._most
            if not is_old or not oldest.done.is_set():
                return
            del self._asked[key]
