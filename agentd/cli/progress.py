"""How far a transfer is: a bar where a person looks, plain lines elsewhere. Both on stderr.

rich is imported when a bar is drawn, and only then: it comes with the extra ``agentd[cli]``.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentd.client import Observer, Session

TENTHS = 10

Moved = Callable[[int], None]


@contextmanager
def shown(title: str, total: int | None) -> Iterator[Moved]:
    """A progress display for `total` bytes (None: unknown); call what it yields with the bytes done so far."""
    if sys.stderr.isatty():
        try:
            import rich.progress  # noqa: F401
        except ImportError:
            print("progress bars need the extra 'cli': pip install 'agentd[cli]'", file=sys.stderr)
        else:
            with _bar(title, total) as moved:
                yield moved
            return
    with _lines(title, total) as moved:
        yield moved


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Moved]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def _lines(title: str, total: int | None) -> Iterator[Moved]:
    started = time.monotonic()
    tenth = latest = 0
    first: int | None = None

    def moved(done: int) -> None:
        nonlocal tenth, first, latest
        first, latest = done if first is None else first, done
        now = done * TENTHS // total if total else 0
        if tenth < now < TENTHS:
            print(f"{title}: {now * 100 // TENTHS} %", file=sys.stderr, flush=True)
            tenth = now

    yield moved
    print(f"{title}: {size(latest - (first or 0))} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


class UploadProgress(Observer):
    """Moves a display by what the daemon has accepted plus what is on its way."""

    upload_id: str | None = None

    def __init__(self) -> None:
        self._moved: Moved = lambda done: None
        self._accepted = 0
        self._on_the_way: dict[int, int] = {}

    @contextmanager
    def shown(self, title: str, total: int) -> Iterator[None]:
        with shown(title, total) as self._moved:
            yield

    def opened(self, session: Session) -> None:
        self.upload_id = session.upload_id
        self._accepted = session.accepted_bytes
        self._show()

    def sending(self, number: int, sent: int) -> None:
        self._on_the_way[number] = sent
        self._show()

    def accepted(self, number: int, session: Session) -> None:
        self._accepted = max(self._accepted, session.accepted_bytes)
        self._on_the_way.pop(number, None)
        self._show()

    def failed(self, number: int, error: Exception) -> None:
        self._on_the_way.pop(number, None)
        self._show()

    def _show(self) -> None:
        self._moved(self._accepted + sum(self._on_the_way.values()))


def size(count: float) -> str:
    """A number of bytes for people: ``1.5 MiB``."""
    power = min(max(int(count).bit_length() - 1, 0) // 10, 4)
    return f"{count / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


_silent = False


@contextmanager
def silent() -> Iterator[None]:
    """For its extent `say` says nothing."""
    global _silent
    _silent = True
    try:
        yield
    finally:
        _silent = False


def say(*pieces: str | tuple[str, str]) -> None:
    """A line on stdout, of texts and (text, style) pairs; in colour where rich is there and a person looks."""
    if _silent:
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        print(*(piece if isinstance(piece, str) else piece[0] for piece in pieces), sep="", flush=True)
    else:
        Console().print(Text.assemble(*pieces), soft_wrap=True)
        sys.stdout.flush()
