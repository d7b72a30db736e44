"""Stand-alone mode at a dialect's door: whose rows answer a call, by the id in its path.

The rows of an API are made once of the machine's rooms and once more of each handle's, when that is called first; so
no row knows of handles, and what a handle has to itself is all that its rows can reach.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from agentd.errors import MachineNotFound, MachineNotReady, SandboxNotFound, SandboxNotReady
from agentd.http.endpoint import Endpoint, StreamResult
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
        self._rows: WeakKeyDictionary[Quarters, dict[str, Handler]] = WeakKeyDictionary()

    def __call__(self, row: Endpoint, segments: Mapping[str, str]) -> Handler:
        """MachineNotFound, SandboxNotFound, MachineNotReady, SandboxNotReady."""
        name = next((name for name in self._names if name in segments), None)
        if name is None or segments[name] == self._own:
            return row.handler
        ident = segments[name]
        try:
            handler = self._of(self._handles.quarters(ident))[row.name]
        except SandboxNotFound as error:
            raise MachineNotFound(error.detail) if name == _MACHINE else error from None
        except SandboxNotReady as error:
            raise MachineNotReady(error.detail) if name == _MACHINE else error from None

        async def counted(*arguments: object) -> object:
            with self._handles.call(ident):
                result = await handler(*arguments)
            if isinstance(result, StreamResult):
                return replace(result, chunks=self._counted(ident, result.chunks))
            return result

        return counted

    async def _counted(self, ident: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """A stream that is read is a call that lasts."""
        with self._handles.call(ident):
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()

    def _of(self, quarters: Quarters) -> dict[str, Handler]:
        if quarters not in self._rows:
            self._rows[quarters] = {row.name: row.handler for row in self._make(quarters)}
        return self._rows[quarters]
