"""One signal is one call on the loop, also on uvloop's."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import uvloop

from agentd.linux.signals import on_signal
from tests.conftest import UNIT


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    numbers = (signal.SIGALRM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_signal_that_comes_while_another_is_taken_is_one_call(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The other's handler sends it: after the loop was woken, and before it has asked who came."""
    calls = asyncio.Queue[str]()

    async def count() -> None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        on_signal(signal.SIGUSR1, calls.put_nowait, "called")
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        await asyncio.wait_for(calls.get(), 10 * UNIT)
        await asyncio.sleep(0.1)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(count())
    os.kill(os.getpid(), signal.SIGUSR1)
    assert calls.empty()
