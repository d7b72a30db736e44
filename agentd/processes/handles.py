"""Stand-alone mode: the daemon plays its own control plane. The owner of all handles: `Handles`.

    handle = await handles.create(NewHandle("sb_", cwd="/workspace/a", env={"A": "1"}, lease=Lease(lifetime=3600)))
    quarters = handles.quarters(handle.id)      # its processes, sessions, terminals; 404 where unknown, 409 if stopped
    await handles.stop(handle.id); await handles.start(handle.id); await handles.delete(handle.id)

A handle is a name for this one machine, with a directory, variables and processes of its own; files, users and the
network are everybody's. Whatever a client calls it (machine, sandbox), every API serves every handle.

Handles outlive the daemon, in its own tree on the workspace's volume: each comes back running or stopped as it was, and
nothing runs in it: what a daemon that died has left there is ended, beside the requests. Time without a call counts
from the daemon's start then; an expiry stays where it is.
Everything is called on the loop. Who leaves a call changes nothing of what becomes of it.
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from agentd.errors import AgentError, CapacityExceeded, Conflict, SandboxNotFound, SandboxNotReady
from agentd.linux.descendants import STOP, end_all, find
from agentd.linux.threads import in_thread
from agentd.processes.handle import Act, Handle, Lease, NewHandle, expiry, read, written
from agentd.processes.marks import Marks, new_first
from agentd.processes.quarters import Quarters
from agentd.processes.records import Records

_LONGEST_WAIT = 86_400.0  # seconds until a clock that was set is noticed
_SHORTEST_WAIT = 0.05
_AFTER_FAILURE = 60.0
_RECORDS = "handles"

_log = logging.getLogger("agentd.processes")

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None]], object]


class HandleLimits(msgspec.Struct, frozen=True):
    """See the section ``handles`` of the configuration, where each is described."""

    max_open: int = 64
    lifetime: float = 86_400.0


Furnish = Callable[[Handle], Awaitable[Quarters]]


class _Held:
    """A handle and what belongs to it. quarters: None while it is stopped. calls: that run now. followers: see
    `Handles.when_emptied`."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.quarters: Quarters | None = None
        self.calls = 0
        self.followers: list[Callable[[], None]] = []
        self.turn = asyncio.Lock()
        self.timer: asyncio.TimerHandle | None = None


class Handles:
    """furnish: makes what a handle that starts has to itself, or raises what its directory, its user or its variables
    give cause for. reserved: fd of the daemon's own tree. grace: seconds from SIGTERM to SIGKILL for what an earlier
    daemon has left. spawn: runs a job beside the requests."""

    def __init__(self, furnish: Furnish, reserved: int, limits: HandleLimits, grace: float, spawn: Spawn) -> None:
        self.limits = limits
        self._grace = grace
        self._furnish = furnish
        self._reserved = reserved
        self._spawn = spawn
        self._records: Records | None = None
        self._held: dict[str, _Held] = {}
        self._names: set[str] = set()
        self._cleared = asyncio.Event()
        self._cleared.set()

    async def open(self, *, keep: bool = False) -> None:
        """Brings back those of earlier daemons, and ends what one that died has left running in them. keep: that runs
        on; nothing is known of it, but it ends with the handle."""
        self._records = await in_thread(Records, self._reserved, _RECORDS)
        found = [self._hold(handle) for handle in await in_thread(read, self._records)]
        if not keep:
            await self._clear(found)
        for held in found:
            if held.handle.running:
                await self._bring_back(held)
            self._arm(held)
        if keep:
            await self._clear([held for held in found if not held.handle.running])

    async def clear(self) -> None:
        """Where there are none, in place of `open`: ends what a daemon that had some, and died, has left running in
        them. They are left for the next daemon that opens them."""

        def firsts() -> Iterator[int]:
            if _RECORDS in os.listdir(self._reserved):
                with Records(self._reserved, _RECORDS) as records:
                    for handle in read(records):
                        yield from (handle.first, *handle.left)

        left = await in_thread(lambda: Marks([*firsts()]))
        if await self._found(left):
            await self._end(left)

    async def carry_out(self, job: Coroutine[Any, Any, T]) -> T:
        """What ``job`` gives, which is done whoever waits for it still; as are all that follow."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                done.set_result(await job)
            except Exception as error:  # noqa: BLE001 - it is handed to whoever waits
                done.set_exception(error)
                done.exception()

        self._spawn(run())
        return await asyncio.shield(done)

    async def create(self, new: NewHandle) -> Handle:
        """Raises CapacityExceeded, Conflict for a name that is taken, UnknownUser, InvalidRequest for a variable that
        cannot be one, and of ``cwd`` PermissionDenied, NotADirectory and whatever making a directory raises."""
        ident = f"{new.prefix}{secrets.token_hex(8)}"
        name = new.name or ident
        if len(self._names) >= self.limits.max_open:
            raise CapacityExceeded(f"there are {len(self._names)} handles already; delete one of them first")
        if name in self._names:
            raise Conflict(f"there is one of the name {name!r} already; delete it, or choose another name")
        self._names.add(name)
        return await self.carry_out(self._create(ident, name, new))

    def get(self, ident: str) -> Handle:
        """SandboxNotFound."""
        return self._known(ident).handle

    def find(self, name: str) -> Handle:
        """By its id, or else by its name. SandboxNotFound."""
        named = [held.handle for held in self._held.values() if held.handle.name == name]
        return named[0] if named and name not in self._held else self.get(name)

    def list(self) -> list[Handle]:
        """The oldest first."""
        return sorted((held.handle for held in self._held.values()), key=lambda handle: (handle.created, handle.id))

    def quarters(self, ident: str) -> Quarters:
        """SandboxNotFound; SandboxNotReady where it is stopped, or is being."""
        quarters = self._known(ident).quarters
        if quarters is None:
            raise SandboxNotReady(f"{ident} is stopped; start it first")
        return quarters

    def when_emptied(self, ident: str, tell: Callable[[], None]) -> None:
        """tell: called once, when it is stopped or deleted and nothing runs in it any more. SandboxNotFound."""
        self._known(ident).followers.append(tell)

    @contextmanager
    def call(self, ident: str) -> Iterator[None]:
        """For the extent of a call: who is called is not idle."""
        held = self._known(ident)
        held.calls += 1
        try:
            yield
        finally:
            held.calls -= 1
            held.handle.active = time.time()

    async def start(self, ident: str) -> Handle:
        """Again is harmless. SandboxNotFound, and what `create` raises of its directory and its user."""
        return await self.carry_out(self._start(self._known(ident)))

    async def stop(self, ident: str, grace: float | None = None) -> Handle:
        """Ends all that runs in it: SIGTERM, ``grace`` seconds (None: the configured ones), SIGKILL. Its calls are
        refused from now on. Again is harmless. SandboxNotFound."""
        return await self.carry_out(self._stop(self._known(ident), grace))

    async def delete(self, ident: str) -> Handle:
        """As `stop`, and forgets it. SandboxNotFound."""
        return await self.carry_out(self._delete(self._known(ident)))

    async def change(
        self,
        ident: str,
        *,
        metadata: dict[str, Any] | None = None,
        lease: Lease | None = None,
        renewed: bool = False,
    ) -> Handle:
        """What is given takes the place of what there was. renewed: the lifetime counts from now. SandboxNotFound."""
        return await self.carry_out(self._change(self._known(ident), metadata, lease, renewed))

    def hang_up(self) -> None:
        """Ends all that follow output, once they have what there is: the daemon ends."""
        for quarters in self._furnished():
            quarters.processes.hang_up()

    async def close(self, *, keep: bool = False) -> None:
        """The daemon ends, and what runs in handles with it, unless it is to be kept."""
        for held in self._held.values():
            self._disarm(held)
        await asyncio.gather(*(quarters.close(keep=keep) for quarters in self._furnished()))
        if self._records is not None:
            self._records.close()

    def _furnished(self) -> Iterator[Quarters]:
        return (held.quarters for held in [*self._held.values()] if held.quarters is not None)

    def _known(self, ident: str) -> _Held:
        try:
            return self._held[ident]
        except KeyError:
            raise SandboxNotFound(f"there is no {ident!r} here, or it was deleted; create one") from None

    async def _clear(self, emptied: Sequence[_Held]) -> None:
        """Ends what earlier daemons have left running in these, where nothing was started yet; what is started from now
        on has other marks, and need not wait for that."""
        left = Marks([first for held in emptied for first in (held.handle.first, *held.handle.left)])
        if not await self._found(left):
            return
        for held in emptied:
            held.handle.left.append(held.handle.first)
            held.handle.first = new_first()
            await self._note(held)
        self._cleared.clear()
        self._spawn(self._end_left(left, emptied))

    async def _found(self, left: Marks) -> bool:
        return bool(left.firsts and await in_thread(find, left, (), pool=STOP, spoilt=True))

    async def _end(self, left: Marks) -> None:
        _log.warning("what a daemon that died has left running in handles is ended")
        await in_thread(end_all, left, (), self._grace, pool=STOP)

    async def _end_left(self, left: Marks, emptied: Sequence[_Held]) -> None:
        try:
            await self._end(left)
        finally:
            self._cleared.set()
        for held in emptied:
            held.handle.left.clear()
            await self._note(held)

    async def _note(self, held: _Held) -> None:
        ident = held.handle.id
        async with held.turn:
            try:
                if self._held.get(ident) is held:
                    await self._write(held.handle)
            except AgentError as error:
                _log.warning("what %s leaves running if the daemon dies will not be ended: %s", ident, error.detail)

    async def _bring_back(self, held: _Held) -> None:
        held.handle.active = time.time()
        try:
            held.quarters = await self._furnish(held.handle)
        except AgentError as error:
            held.handle.stopped = time.time()
            _log.warning("the handle %s comes back stopped: %s", held.handle.id, error.detail)

    def _hold(self, handle: Handle) -> _Held:
        held = self._held[handle.id] = _Held(handle)
        self._names.add(handle.name)
        return held

    async def _create(self, ident: str, name: str, new: NewHandle) -> Handle:
        now = time.time()
        handle = Handle(
            id=ident,
            name=name,
            created=now,
            started=now,
            active=now,
            stopped=None,
            expires=expiry(new.lease),
            cwd=new.cwd,
            env=dict(new.env),
            user=new.user,
            metadata=new.metadata,
            notes=new.notes,
            lease=new.lease,
            first=new_first(),
        )
        try:
            quarters = await self._furnish(handle)
            await self._write(handle)
        except BaseException:
            self._names.discard(name)
            raise
        held = self._hold(handle)
        held.quarters = quarters
        self._arm(held)
        return handle

    async def _start(self, held: _Held) -> Handle:
        handle = held.handle
        async with held.turn:
            self._known(handle.id)
            if held.quarters is None:
                quarters = await self._furnish(handle)
                handle.started = handle.active = time.time()
                handle.stopped = None
                if handle.lease.then == "stop":
                    handle.expires = expiry(handle.lease)
                held.quarters = quarters
                self._arm(held)
                await self._write(handle)
        return handle

    async def _stop(self, held: _Held, grace: float | None) -> Handle:
        async with held.turn:
            self._known(held.handle.id)
            await self._halt(held, grace)
        return held.handle

    async def _delete(self, held: _Held) -> Handle:
        async with held.turn:
            self._known(held.handle.id)
            await self._drop(held)
        return held.handle

    async def _halt(self, held: _Held, grace: float | None) -> None:
        await self._vacate(held, grace)
        self._arm(held)
        await self._write(held.handle)

    async def _drop(self, held: _Held) -> None:
        assert self._records is not None
        await self._vacate(held, None)
        await in_thread(self._records.remove, held.handle.id)
        self._disarm(held)
        del self._held[held.handle.id]
        self._names.discard(held.handle.name)

    async def _vacate(self, held: _Held, grace: float | None) -> None:
        quarters, held.quarters = held.quarters, None
        if quarters is not None:
            held.handle.stopped = time.time()
            await self._cleared.wait()
            try:
                await quarters.close(grace)
            finally:
                for tell in held.followers:
                    tell()
                held.followers.clear()

    async def _change(self, held: _Held, metadata: dict[str, Any] | None, lease: Lease | None, renewed: bool) -> Handle:
        handle = held.handle
        async with held.turn:
            self._known(handle.id)
            handle.metadata = handle.metadata if metadata is None else metadata
            handle.lease = handle.lease if lease is None else lease
            if renewed:
                handle.expires = expiry(handle.lease)
            self._arm(held)
            await self._write(handle)
        return handle

    async def _write(self, handle: Handle) -> None:
        assert self._records is not None
        await in_thread(self._records.write, handle.id, written(handle))

    # -- what ends by itself

    def _disarm(self, held: _Held) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None

    def _arm(self, held: _Held, at_least: float = _SHORTEST_WAIT) -> None:
        self._disarm(held)
        coming = [moment for moment, _ in _moments(held)]
        if coming:
            seconds = min(max(min(coming) - time.time(), at_least), _LONGEST_WAIT)
            held.timer = asyncio.get_running_loop().call_later(seconds, self._look, held)

    def _look(self, held: _Held) -> None:
        if _due(held):
            self._spawn(self._act(held))
        else:
            self._arm(held)

    async def _act(self, held: _Held) -> None:
        """Does what is due still, once what was asked for before is done."""
        async with held.turn:
            if self._held.get(held.handle.id) is not held:
                return
            act = _due(held)
            try:
                if act is None:
                    self._arm(held)
                else:
                    _log.info("%s has come to its end: %s", held.handle.id, act)
                    await (self._drop(held) if act == "delete" else self._halt(held, None))
            except BaseException:
                self._arm(held, _AFTER_FAILURE)
                raise


def _moments(held: _Held) -> Iterator[tuple[float, Act]]:
    """When what will be done with it, as far as that is known now."""
    handle, lease = held.handle, held.handle.lease
    if handle.expires is not None and (lease.then == "delete" or handle.running):
        yield handle.expires, lease.then
    if handle.running and lease.idle is not None:
        yield (time.time() if held.calls else handle.active) + lease.idle, lease.when_idle
    if handle.stopped is not None and lease.stopped is not None:
        yield handle.stopped + lease.stopped, "delete"


def _due(held: _Held) -> Act | None:
    """What was to be done by now, the first of it."""
    return min(((moment, act) for moment, act in _moments(held) if moment <= time.time()), default=(0, None))[1]
