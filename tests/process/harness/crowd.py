"""Several connections at once, each with parts of one upload."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from tests.conftest import Daemon
from tests.process.harness.sender import NO_ANSWER, Sender


class Crowd:
    """Sends ``numbers`` over ``width`` connections until they are sent or the daemon is gone. A context manager."""

    def __init__(self, daemon: Daemon, sender: Sender, numbers: Iterable[int], width: int = 4) -> None:
        self._pool = ThreadPoolExecutor(width)
        todo = list(numbers)
        self._jobs: list[Future[None]] = [
            self._pool.submit(_send, daemon, sender, todo[first::width]) for first in range(width)
        ]

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for job in self._jobs:
            job.result()


def _send(daemon: Daemon, sender: Sender, numbers: list[int]) -> None:
    try:
        for number in numbers:
            sender.put(daemon, number)
    except NO_ANSWER:
        return
