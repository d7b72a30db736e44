"""Work that no request waits for."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0

_log = logging.getLogger("agentd")


class Background:
    """Work beside the requests, in the daemon's one task group. What fails here ends nothing else."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._jobs: set[asyncio.Task[None]] = set()
        self._services: list[asyncio.Task[None]] = []

    def spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a job that ends by itself; `finish` waits for it."""
        task = self._group.create_task(self._logged(job))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    def supervise(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        """Runs a service until `finish`; one that fails is started again after a pause that doubles."""
        self._services.append(self._group.create_task(self._supervised(name, service)))

    async def finish(self) -> None:
        """Ends the services and waits for the jobs."""
        for task in self._services:
            task.cancel()
        await asyncio.gather(*self._services, *self._jobs, return_exceptions=True)

    async def _logged(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except Exception:  # noqa: BLE001 - whatever it is, the daemon goes on
            _log.exception("a background job failed")

    async def _supervised(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                await service()
                return
            except Exception:  # noqa: BLE001 - whatever it is, the service is started again
                _log.exception("%s failed and is started again", name)
            if time.monotonic() - started > LAST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
