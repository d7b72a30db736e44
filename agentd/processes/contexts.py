"""The owner of all code contexts: `Contexts`."""

import asyncio
import secrets

import msgspec

from agentd.errors import CapacityExceeded, ContextNotFound
from agentd.processes.context import Context
from agentd.processes.interpreter import Spawn
from agentd.processes.languages import language
from agentd.processes.registry import Processes
from agentd.processes.terms import Order


class ContextLimits(msgspec.Struct, frozen=True):
    """See the section ``contexts`` of the configuration, where each is described."""

    max_open: int = 32
    max_waiting: int = 32
    grace: float = 2


class Contexts:
    """Everything is called on the loop. spawn: runs a job beside the requests."""

    def __init__(self, processes: Processes, limits: ContextLimits, spawn: Spawn) -> None:
        self._processes = processes
        self._limits = limits
        self._spawn = spawn
        self._contexts: dict[str, Context] = {}
        # The contexts of code that names none, by language and user.
        self._default: dict[tuple[str, str | None], Context] = {}

    async def create(self, name: str | None, cwd: str | None, user: str | None) -> Context:
        """A new one with its interpreter running. name: of a language, None for Python.

        Raises NotSupported, CapacityExceeded, and what `Processes.start` does of a directory and a user.
        """
        context = self._made(name, cwd, user)
        try:
            await context.ready()
        except BaseException:
            self._spawn(self._remove(context))
            raise
        return context

    def list(self) -> list[Context]:
        """Oldest first."""
        return [context for context in self._contexts.values() if context.cwd]

    def get(self, id_: str) -> Context:
        """ContextNotFound."""
        try:
            return self._contexts[id_]
        except KeyError:
            raise ContextNotFound(f"there is no code context {id_!r}; create one, or list those there are") from None

    async def default(self, name: str | None, user: str | None) -> Context:
        """The context of code that names none: one for each language and user, made when it is needed first."""
        key = language(name).name, user
        known = self._default.get(key)
        if known is None:
            known = self._default[key] = self._made(name, None, user)
            known.is_default = True
        try:
            await known.ready()
        except BaseException:
            if not known.cwd:
                self._spawn(self._remove(known))
            raise
        return known

    async def delete(self, id_: str) -> None:
        """Ends its interpreter; code that runs there ends with an error."""
        await self._remove(self.get(id_))

    async def close(self) -> None:
        """Ends all interpreters: without the daemon nobody could talk to them."""
        await asyncio.gather(*(self._remove(context) for context in list(self._contexts.values())))

    def _made(self, name: str | None, cwd: str | None, user: str | None) -> Context:
        if len(self._contexts) >= self._limits.max_open:
            raise CapacityExceeded(f"there are {len(self._contexts)} code contexts already; delete one first")
        spoken = language(name)
        id_ = f"ctx_{secrets.token_hex(8)}"
        order = Order((), cwd=cwd, user=user, tags={"context": id_})
        limits = self._limits
        context = Context(id_, spoken, order, self._processes, self._spawn, limits.grace, limits.max_waiting)
        self._contexts[id_] = context
        return context

    async def _remove(self, context: Context) -> None:
        self._contexts.pop(context.id, None)
        for key, known in list(self._default.items()):
            if known is context:
                del self._default[key]
        await context.close()
