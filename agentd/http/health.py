"""The three answers that anybody gets: they say nothing but yes or no, cost microseconds and are not logged.

``/livez`` and ``/healthz``: the loop turns. ``/readyz``: the daemon listens and does not drain, the workspace is there
and writable; 503 otherwise. The workspace is looked at in a worker thread and at most once a second, so a hung file
system cannot stop the loop.
"""

import asyncio
import os
from collections.abc import Callable

from agentd.http import web
from agentd.http.problem import SERVER
from agentd.linux.threads import in_thread

FRESH_SECONDS = 1.0
YES = b'{"status":"ok"}'
NO = b'{"status":"unavailable"}'


def directory_writable(fd: int) -> bool:
    """Whether the directory still has a name and its file system takes writes from us. Blocks."""
    try:
        # Not by dir_fd: that is faccessat2(2) to glibc, which older seccomp filters refuse with EPERM.
        return os.fstat(fd).st_nlink > 0 and os.access(f"/proc/self/fd/{fd}", os.W_OK)
    except OSError:
        return False


class Health:
    """draining(): whether the daemon is about to end. writable(): blocks; whether the workspace takes writes."""

    def __init__(self, draining: Callable[[], bool], writable: Callable[[], bool]) -> None:
        self._draining = draining
        self._writable = writable
        self._checked = (-FRESH_SECONDS, False)
        self._lock = asyncio.Lock()

    async def answer(self, method: str, path: str) -> web.Response | None:
        """The answer where method and path ask for health, else None."""
        if method != "GET" or path not in ("/livez", "/readyz", "/healthz"):
            return None
        well = path != "/readyz" or (not self._draining() and await self._workspace())
        headers = {"Content-Type": "application/json", "Server": SERVER}
        return web.Response(status=200 if well else 503, body=YES if well else NO, headers=headers)

    async def _workspace(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._checked[0] >= FRESH_SECONDS:
            async with self._lock:
                if now - self._checked[0] >= FRESH_SECONDS:
                    self._checked = (now, await in_thread(self._writable))
        return self._checked[1]
