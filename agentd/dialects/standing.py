"""Stand-alone mode at a dialect's door: whose rows answer a call, by the id in its path.

The rows of an API are made once of the machine's rooms and once more of each handle's, when that is called first; so
no row knows of handles, and what a handle has to itself is all that its rows can reach.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from agentd.errors import MachineNotFound, MachineNotReady, SandboxNotFound, SandboxNotReady
from agentd.http.ending import Ending
from agentd.http.endpoint import Endpoint, Stand, StreamResult
from agentd.processes.handles import Handles
from agentd.processes.quarters import Quarters

Handler = Callable[..., Awaitable[object]]

_MACHINE = "machine_id"


class Standing:
    """`Dialect.stand_in` of one API. make: its rows, of a handle's rooms. names: the segments that hold an id; those of
    rows about a handle itself are called otherwise. own: the id that is the machine's own, which is served by the
    machine's rooms, as are paths without an id; None for none."""

    def __init__(
        self,
        handles: Handles,
        make: Callable[[Quarters], Iterable[Endpoint]],
        names: Sequence[str],
        own: str | None,
    ) -> None:
        self._handles = handles
        self._names = names
        self._make = make
        self._own = own
        self._rows: WeakKeyDictionary[Quarters, tuple[dict[str, Handler], Ending]] = WeakKeyDictionary()

    def __call__(self, row: Endpoint, segments: Mapping[str, str], ending: Ending) -> Stand:
        """MachineNotFound, SandboxNotFound, MachineNotReady, SandboxNotReady."""
        name = next((name for name in self._names if name in segments), None)
        if name is None or segments[name] == self._own:
            return Stand(row.handler, ending)
        ident = segments[name]
        with _called(name):
            rows, ending = self._of(ident, ending)

        async def counted(*arguments: object) -> object:
            with _called(name), self._handles.call(ident):
                result = await rows[row.name](*arguments)
            if isinstance(result, StreamResult):
                return replace(result, chunks=self._counted(ident, result.chunks))
            return result

        return Stand(counted, ending, ident)

    async def _counted(self, ident: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """A stream that is read is a call that lasts."""
        with self._handles.call(ident):
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()

    def _of(self, ident: str, within: Ending) -> tuple[dict[str, Handler], Ending]:
        quarters = self._handles.quarters(ident)
        if quarters not in self._rows:
            ending = Ending(within)
            self._rows[quarters] = {row.name: row.handler for row in self._make(quarters)}, ending
            self._handles.when_emptied(ident, partial(ending.begin, "stopped", "the sandbox was stopped or deleted"))
        return self._rows[quarters]


@contextmanager
def _called(name: str) -> Iterator[None]:
    """What is not there, or not running, is called as the client calls it."""
    try:
        yield
    except SandboxNotFound as error:
        raise MachineNotFound(error.detail) if name == _MACHINE else error from None
    except SandboxNotReady as error:
        raise MachineNotReady(error.detail) if name == _MACHINE else error from None
