"""Blocking work beside the loop, in pools of our own, with a cancellation that cannot outrun its thread.

A thread cannot be cancelled. If the awaiting task went on while its job still runs, the task's ``finally`` would close
fds that the job writes to, their numbers would be given out again, and the job would write into somebody else's file.
So a cancelled `in_thread` waits for its job, however often it is cancelled, and only then is cancelled itself.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

Args = TypeVarTuple("Args")
T = TypeVar("T")


class Pool:
    """At most ``size`` threads, made as they are needed; further jobs wait their turn."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.executor = ThreadPoolExecutor(size, thread_name_prefix=name)


DISK = Pool("disk", 16)
LONG = Pool("long", 4)


async def in_thread(fn: Callable[[*Args], T], *args: *Args, pool: Pool = DISK, **kwargs: Any) -> T:
    """``fn(*args, **kwargs)`` in a thread of ``pool``: its result or its exception. The job sees the caller's context.

    DISK is for short jobs (a piece of a body, a stat, a record), LONG for those that last (hash, unpack, delete a
    tree). Pass by position what ``fn`` requires: the type checker sees those alone.
    A cancelled caller gets CancelledError after ``fn`` has returned, with the job's own exception as its cause; a job
    that had not begun still runs. Its result is dropped, so what ``fn`` returns must free itself when it is dropped.
    """
    context = contextvars.copy_context()
    # Futures refer to each other in a circle, so a result in one would keep its fds until the next garbage collection.
    result: list[T] = []

    def job() -> None:
        try:
            result.append(context.run(fn, *args, **kwargs))
        except StopIteration as stop:
            # An asyncio future refuses StopIteration and would stay pending for ever (Python 3.11).
            raise RuntimeError("the job raised StopIteration") from stop

    future = asyncio.get_running_loop().run_in_executor(pool.executor, job)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
    if cancelled is not None:
        result.clear()
        raise cancelled from future.exception()
    future.result()
    return result.pop()
