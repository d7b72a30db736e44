"""Sessions: a shell that keeps its directory, variables and functions from one command to the next.

    session = await sessions.open(Opening(user="alice", cwd="src"))
    command = session.run("cd lib && make", Input(b"yes\\n"), timeout=60)     # after those that were asked for before
    await command.wait()
    command.exit_code, await session.read(command, Stream.STDOUT, 1 << 20)

Commands run one after the other. What a command's background jobs write after its end is in the session's output, and
in that of a command that runs then, as in a terminal. A shell that ends (``exit``, ``set -e``, ``exec``, a signal) ends
the session; the command that it ran has the shell's status. Everything runs on the loop.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from agentd.errors import CapacityExceeded, Conflict, ProgramNotFound, SessionNotFound
from agentd.linux.places import Places
from agentd.linux.threads import in_thread
from agentd.processes.identifiers import identifier
from agentd.processes.registry import Processes
from agentd.processes.session import Session, SessionLimits, Spawn
from agentd.processes.shell import Kind, connect
from agentd.processes.terms import Order


class Opening(msgspec.Struct, frozen=True):
    """What to open. ident: see `identifiers`. shell: None for bash, or sh where there is none. cwd, env, user: as
    `terms.Order` has them."""

    ident: str = ""
    shell: Kind | None = None
    cwd: str | None = None
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    user: str | None = None


class Sessions:
    """All sessions. The ended ones are remembered until they are deleted, or are too many."""

    def __init__(self, processes: Processes, places: Places, limits: SessionLimits, spawn: Spawn) -> None:
        self._processes = processes
        self._places = places
        self._limits = limits
        self._spawn = spawn
        self._sessions: dict[str, Session] = {}
        self._opening: set[str] = set()
        self._watching: set[asyncio.Task[None]] = set()

    async def open(self, opening: Opening) -> Session:
        """Raises Conflict where there is one of that id, CapacityExceeded, and what `Processes.start` raises."""
        ident = identifier(opening.ident, "sess")
        if ident in self._opening or ident in self._sessions:
            raise Conflict(f"there is a session {ident!r} already; delete it, or choose another id", session_id=ident)
        if len(self._opening) + self.open_count >= self._limits.max_open:
            raise CapacityExceeded(f"{self._limits.max_open} sessions are open; delete one of them first")
        self._opening.add(ident)
        try:
            if opening.shell is None:
                with suppress(ProgramNotFound):
                    return await self._open(ident, opening, "bash")
            return await self._open(ident, opening, opening.shell or "sh")
        finally:
            self._opening.discard(ident)

    def get(self, ident: str) -> Session:
        """SessionNotFound where there is none, or it has been forgotten."""
        if ident not in self._sessions:
            raise SessionNotFound(
                f"there is no session {ident!r}: none was opened, it was deleted, or its daemon has ended; open one",
                session_id=ident,
            )
        return self._sessions[ident]

    async def delete(self, ident: str) -> None:
        """Ends it with everything that was started in it, and forgets it. SessionNotFound."""
        session = self.get(ident)
        await session.stop()
        self._sessions.pop(ident, None)

    @property
    def open_count(self) -> int:
        """How many have not ended."""
        return sum(one.ending is None for one in self._sessions.values())

    def list(self) -> list[Session]:
        """The oldest first."""
        return [*self._sessions.values()]

    async def close(self, patience: float = 0) -> None:
        """The daemon ends. patience: seconds in which those whose program has ended tell so."""
        if self._watching:
            await asyncio.wait(self._watching, timeout=patience)
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _open(self, ident: str, opening: Opening, kind: Kind) -> Session:
        place = await in_thread(self._places.find, "/", opening.user)
        line, offer = await in_thread(connect, kind, place.owner)
        order = Order(line.argv, f"{kind} (session {ident})", opening.cwd, opening.env, opening.user)
        try:
            process = await self._processes.start(order, wires=offer.take())
        except BaseException:
            line.close()
            raise
        session = Session(ident, kind, line, process, self._limits, self._spawn)
        self._sessions[ident] = session
        task = self._spawn(session.watch())
        self._watching.add(task)
        task.add_done_callback(self._ended)
        return session

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._watching.discard(task)
        ended = [session.id for session in self._sessions.values() if session.ending is not None]
        for ident in ended[: max(0, len(ended) - self._limits.keep_ended)]:
            del self._sessions[ident]
