"""Requests with an idempotency key."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agentd.errors import Conflict, InvalidRequest, KeyReused
from agentd.http.repeats import Repeats


class Done:
    """Counts what is done; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.count = 0
        self.go = asyncio.Event()
        self.go.set()
        self._failures = failures

    async def __call__(self) -> int:
        self.count += 1
        await self.go.wait()
        if self.count <= self._failures:
            raise Conflict("not now")
        return self.count


@pytest.fixture
def done() -> Done:
    return Done()


async def twice(act: Callable[[], Awaitable[int]]) -> list[int]:
    return [await act(), await act()]


async def test_the_same_request_is_done_once(done: Done) -> None:
    repeats = Repeats()
    assert await twice(lambda: repeats.once("key", ("same", 1), done)) == [1, 1]


async def test_without_a_key_it_is_done_each_time(done: Done) -> None:
    repeats = Repeats()
    assert await twice(lambda: repeats.once(None, "same", done)) == [1, 2]


async def test_other_keys_are_other_requests(done: Done) -> None:
    repeats = Repeats()
    assert [await repeats.once(key, "same", done) for key in "ab"] == [1, 2]


async def test_a_key_is_of_one_request(done: Done) -> None:
    repeats = Repeats()
    await repeats.once("key", "one", done)
    with pytest.raises(KeyReused):
        await repeats.once("key", "other", done)


async def test_whoever_repeats_meanwhile_waits_for_the_first(done: Done) -> None:
    repeats = Repeats()
    done.go.clear()
    both = asyncio.gather(*[repeats.once("key", "same", done) for _ in range(3)])
    await asyncio.sleep(0)
    done.go.set()
    assert await both == [1, 1, 1]


async def test_what_failed_is_done_again() -> None:
    repeats, done = Repeats(), Done(failures=1)
    with pytest.raises(Conflict):
        await repeats.once("key", "same", done)
    assert await repeats.once("key", "same", done) == 2


async def test_whoever_waited_for_a_failure_does_it_himself() -> None:
    repeats, done = Repeats(), Done(failures=1)
    done.go.clear()
    both = asyncio.gather(*[repeats.once("key", "same", done) for _ in range(3)], return_exceptions=True)
    await asyncio.sleep(0)
    done.go.set()
    first, *others = await both
    assert (type(first), others) == (Conflict, [2, 2])


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x7f"])
async def test_what_is_no_key_is_refused(done: Done, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await Repeats().once(key, "same", done)


async def test_answers_are_forgotten_in_time_and_when_there_are_too_many(done: Done) -> None:
    now = [0.0]
    repeats = Repeats(most=2, seconds=10, now=lambda: now[0])
    assert [await repeats.once(key, "same", done) for key in "abcba"] == [1, 2, 3, 2, 4]
    now[0] = 11
    assert await repeats.once("a", "other", done) == 5
