"""What `in_thread` promises, on both loops."""

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from agentd.linux.threads import DISK, LONG, Pool, in_thread

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def runner(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param, debug=True) as loop:
            return loop.run(main)

    return runner


class Job:
    """Runs until it is let go, then ends with ``error`` or hands out ``result``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.started = threading.Event()
        self.go = threading.Event()
        self.result: object = None
        self.ended = False

    def __call__(self) -> object:
        self.started.set()
        self.go.wait(10)
        self.ended = True
        if self.error:
            raise self.error
        result, self.result = self.result, None
        return result


async def cancelled_task(job: Job, times: int) -> asyncio.Task[object]:
    """A task that awaits the job and was cancelled while the job ran."""
    task = asyncio.get_running_loop().create_task(in_thread(job))
    await in_thread(job.started.wait, 10)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    return task


def test_result_and_exception_of_the_job_are_the_callers(run: Run) -> None:
    assert run(in_thread(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        run(in_thread(divmod, 7, 0))


def test_job_runs_in_a_thread_of_the_pool_that_is_named(run: Run) -> None:
    def name() -> str:
        return threading.current_thread().name

    assert run(in_thread(name)).startswith("disk")
    assert run(in_thread(name, pool=LONG)).startswith("long")


def test_job_sees_the_context_of_its_caller(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def main() -> str:
        variable.set("request 1")
        return await in_thread(variable.get)

    assert run(main()) == "request 1"


@pytest.mark.parametrize("times", [1, 3])
def test_cancelled_caller_waits_until_its_job_has_ended(run: Run, times: int) -> None:
    async def main() -> None:
        job = Job()
        task = await cancelled_task(job, times)
        assert not task.done()
        job.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert job.ended

    run(main())


def test_exception_of_a_cancelled_callers_job_is_the_cause_of_the_cancellation(run: Run) -> None:
    async def main() -> None:
        fault = OSError("disk")
        job = Job(fault)
        task = await cancelled_task(job, 1)
        job.go.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.__cause__ is fault

    run(main())


def test_result_for_a_cancelled_caller_is_freed_at_once(run: Run) -> None:
    class Result:
        pass

    async def main() -> None:
        freed, job = threading.Event(), Job()
        job.result = Result()
        weakref.finalize(job.result, freed.set)
        task = await cancelled_task(job, 1)
        job.go.set()
        await asyncio.wait([task])
        assert freed.is_set()

    gc.disable()
    run(main())
    gc.enable()


def test_timeout_is_a_timeout_once_the_job_has_ended(run: Run) -> None:
    async def main() -> None:
        job = Job()
        asyncio.get_running_loop().call_later(0.05, job.go.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await in_thread(job)
        assert job.ended

    run(main())


def test_job_that_had_not_begun_when_its_caller_was_cancelled_still_runs(run: Run) -> None:
    async def main() -> None:
        first, second, pool = Job(), Job(), Pool("single", 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(in_thread(first, pool=pool))
            waiting = group.create_task(in_thread(second, pool=pool))
            await in_thread(first.started.wait, 10)
            waiting.cancel()
            second.go.set()
            first.go.set()
        assert second.ended
        pool.executor.shutdown()

    run(main())


def test_stop_iteration_of_a_job_does_not_hang_its_caller(run: Run) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        run(in_thread(next, iter(())))


def test_pool_has_no_more_threads_than_its_size() -> None:
    assert (DISK.size, LONG.size) == (16, 4)
    pool = Pool("pair", 2)
    threads = set(pool.executor.map(lambda _: threading.current_thread().name, range(50)))
    pool.executor.shutdown()
    assert len(threads) <= 2
