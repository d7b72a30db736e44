"""Work that waits for somebody holds no thread meanwhile."""

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from agentd.linux.steps import Pause, Steps, finish, in_steps
from agentd.linux.threads import Pool
from tests.conftest import UNIT


@pytest.fixture
def one() -> Iterator[Pool]:
    """A pool of one thread."""
    pool = Pool("one", 1)
    yield pool
    pool.executor.shutdown()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    fds = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield fds
    for fd in fds:
        os.close(fd)


def reading(fd: int, closed: threading.Event) -> Steps[bytes]:
    try:
        while True:
            try:
                return os.read(fd, 9)
            except BlockingIOError:
                yield Pause(fd, UNIT)
    finally:
        closed.set()


def refuse() -> None:
    raise ValueError("no more")


async def test_others_have_the_thread_while_one_waits(one: Pool, pipe: tuple[int, int]) -> None:
    first = asyncio.get_running_loop().create_task(in_steps(reading(pipe[0], threading.Event()), one, lambda: None))
    ready, other = os.pipe()
    os.write(other, b"other")
    async with asyncio.timeout(10 * UNIT):
        assert await in_steps(reading(ready, threading.Event()), one, refuse) == b"other"
        os.write(pipe[1], b"first")
        assert await first == b"first"
    os.close(ready)
    os.close(other)


async def test_one_that_may_not_go_on_is_closed(one: Pool, pipe: tuple[int, int]) -> None:
    closed = threading.Event()
    with pytest.raises(ValueError, match="no more"):
        await in_steps(reading(pipe[0], closed), one, refuse)
    assert closed.is_set()


async def test_one_whose_caller_is_cancelled_is_closed(one: Pool, pipe: tuple[int, int]) -> None:
    closed = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_steps(reading(pipe[0], closed), one, lambda: None)
    assert closed.is_set()


async def test_one_that_must_not_be_given_up_is_finished_for_a_cancelled_caller(one: Pool) -> None:
    done: list[int] = []

    def steps() -> Steps[None]:
        for number in range(3):
            yield Pause(-1, 0.1)
            done.append(number)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_steps(steps(), one, to_its_end=True)
    assert done == [0, 1, 2]


def test_without_a_loop_it_is_waited_for(pipe: tuple[int, int]) -> None:
    timer = threading.Timer(0.05, os.write, (pipe[1], b"late"))
    timer.start()
    assert finish(reading(pipe[0], threading.Event())) == b"late"
    timer.join()
