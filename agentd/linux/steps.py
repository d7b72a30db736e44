"""Blocking work in steps, between which others have the thread, and after any of which it can be given up.

Such work is a generator. It yields a `Pause` where it has to wait for somebody, who may be slow on purpose, or `NEXT`.
"""

import asyncio
import select
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import NamedTuple, TypeVar

from agentd.linux.threads import Pool, in_thread

T = TypeVar("T")


class Pause(NamedTuple):
    """Nothing is to be done before the fd, if there is one, can be read, or the seconds are over."""

    fd: int
    seconds: float


Steps = Generator[Pause, None, T]
NEXT = Pause(-1, 0)


def finish(steps: Steps[T]) -> T:
    """What comes of it, waited for in this thread. Blocks."""
    while isinstance(step := _step(steps), Pause):
        poll = select.poll()
        if step.fd >= 0:
            poll.register(step.fd, select.POLLIN)
        poll.poll(step.seconds * 1000)
    return step[0]


async def in_steps(
    steps: Steps[T], pool: Pool, check: Callable[[], object] = lambda: None, *, to_its_end: bool = False
) -> T:
    """What comes of it, each step in a thread of ``pool``. Where this is cancelled, or where ``check``, called between
    them, raises, it is closed (GeneratorExit) instead of the next one; ``to_its_end``: it is finished first."""
    try:
        while isinstance(step := await in_thread(_step, steps, pool=pool), Pause):
            await _paused(step)
            check()
        return step[0]
    except BaseException:
        if to_its_end:
            await in_thread(finish, steps, pool=pool)
        await in_thread(steps.close, pool=pool)
        raise


def _step(steps: Steps[T]) -> Pause | tuple[T]:
    try:
        return next(steps)
    except StopIteration as stop:
        return (stop.value,)


async def _paused(pause: Pause) -> None:
    if pause.fd < 0:
        return await asyncio.sleep(pause.seconds)
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pause.fd, event.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause.seconds):
                await event.wait()
    finally:
        loop.remove_reader(pause.fd)
