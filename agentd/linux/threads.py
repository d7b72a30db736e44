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
    loop = asyncio.get_running_loop()
    ended = _Ended(loop=loop)
    # Not in the future, which an exception's traceback keeps alive, and the fds in the result with it.
    result: list[T] = []

    def job() -> None:
        failure: BaseException | None = None
        try:
            result.append(context.run(fn, *args, **kwargs))
        except StopIteration as stop:  # which an asyncio future refuses
            failure = RuntimeError("the job raised StopIteration")
            failure.__cause__ = stop
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            failure = error
        loop.call_soon_threadsafe(ended.set, failure)
        del failure  # whose traceback leads back here

    pool.executor.submit(job)
    try:
        await ended
    except asyncio.CancelledError as cancelled:
        result.clear()
        raise cancelled from ended.exception()
    return result.pop()


class _Ended(asyncio.Future[None]):
    """Refuses to be cancelled: the task that awaits it is cancelled when it is done (asyncio.Task.cancel)."""

    def cancel(self, msg: object = None) -> bool:
        return False

    def set(self, failure: BaseException | None) -> None:
        if failure is None:
            self.set_result(None)
        else:
            self.set_exception(failure)
