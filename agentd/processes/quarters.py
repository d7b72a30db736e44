"""What a handle has of the machine to itself: `Quarters`. A process, a session, a terminal or a code context of one
handle does not exist for another; files are everybody's."""

import asyncio

import msgspec

from agentd.linux.places import Places
from agentd.processes.contexts import Contexts
from agentd.processes.git import Git
from agentd.processes.pty import Terminals
from agentd.processes.registry import Processes
from agentd.processes.sessions import Sessions

_LAST_WORDS = 1.0  # seconds for a session or a terminal to notice that its program has ended


class Quarters(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """Owners of state, under the names that the machine's own have. places: with the handle's directory and user."""

    places: Places
    processes: Processes
    contexts: Contexts
    git: Git
    terminals: Terminals
    sessions: Sessions

    async def close(self, grace: float | None = None, *, keep: bool = False) -> None:
        """Ends everything that runs in it: SIGTERM, ``grace`` seconds (None: the configured ones), SIGKILL.

        Whoever waits for something in it learns how that ended. keep: it runs on, and only the daemon lets go of it.
        """
        if not keep:
            await self.processes.end(grace)
        await self.contexts.close()
        await asyncio.gather(self.sessions.close(_LAST_WORDS), self.terminals.close(_LAST_WORDS))
        await self.processes.close(keep=keep)
