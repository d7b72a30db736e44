"""Several files that come one after the other and take their places together, once all of them are whole.

    async with writing.batch() as batch:
        async for part in form:
            await part.receive(await batch.begin(part.filename), limit)
        entries = await batch.publish([places.find(...), ...])

Where they go may be known at the end only, so each is a draft in the reserved tree until then. A file that cannot be
what it is to be is found out before the first of them is.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agentd.files.drafts import Draft, Drafts
from agentd.files.operations import Entry
from agentd.linux.oserrors import os_errors
from agentd.linux.places import Place
from agentd.linux.threads import in_thread

if TYPE_CHECKING:
    from agentd.files.writing import Writing


class Batch:
    """Made by `Writing.batch`; what is not published by its end is gone."""

    def __init__(self, writing: "Writing", drafts: Drafts) -> None:
        self._writing = writing
        self._home = drafts
        self._drafts: list[Draft] = []

    async def begin(self, name: str) -> Callable[[memoryview], None]:
        """One more file. Returns what takes its bytes: it blocks, and raises NoSpace and what else the disk says.
        name: what the file is called in errors."""
        draft = await in_thread(self._begin, name)
        self._drafts.append(draft)

        def write(piece: memoryview) -> None:
            with os_errors("write", name):
                draft.write(piece)

        return write

    async def publish(self, places: Sequence[Place]) -> list[Entry]:
        """Puts each into its place, in the order in which they were begun.

        Raises what `Writing.begun` raises, for one of them and before any is put into place; what changes in their
        directories while they are put into place, one after the other, may still keep the later ones out.
        """
        return await in_thread(self._publish, places)

    async def close(self) -> None:
        await in_thread(self._close)

    def _begin(self, name: str) -> Draft:
        with os_errors("write", name):
            return self._home.within()

    def _publish(self, places: Sequence[Place]) -> list[Entry]:
        for number, place in enumerate(places):
            self._drafts[number] = self._writing.fit(self._drafts[number], place)
        return [self._writing.publish(draft, place) for draft, place in zip(self._drafts, places, strict=True)]

    def _close(self) -> None:
        for draft in self._drafts:
            draft.close()
