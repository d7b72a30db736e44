"""What of a process outlives the daemon, where a service manager keeps fds: its pidfd, its pipes, its output, and what
it is. The daemon that is started next goes on with it, whether this one was killed or left it running.

In the store each process has a name, under which its `Journal`, its pidfd and the pipes of its output are; ``NAME-i``
is its input, ``NAME-s`` the file that its output was spilled to. Nothing else says what survives, so an entry is there
as a whole or not at all; one that makes no sense is taken out, and what ran is ended (see `marks`). Variables and input
of a process are not kept: they may be secret.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

import msgspec

from agentd.core.eventlog import EventLog, Stream
from agentd.linux.cgroups import Cgroups
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity
from agentd.linux.notify import STORE, FdStore
from agentd.linux.pidfd import is_pidfd
from agentd.linux.spawn import Child, Limits
from agentd.linux.threads import in_thread
from agentd.processes.journal import Damaged, Journal
from agentd.processes.spill import Spill
from agentd.processes.terms import Ending, Order, Wires

_KIND = "p"
_INPUT, _SPILL = "-i", "-s"

_log = logging.getLogger("agentd.processes")

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Ended(msgspec.Struct, frozen=True):
    """at: Unix time. final: where the log ended for those who follow."""

    at: float
    final: int
    ending: Ending


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is. pipes: of its output, their inode numbers. key, fingerprint: see `Processes.start`. The rest:
    as `terms.Order`, `linux.spawn.Child` and `process.Process` have it."""

    pid: int
    mark: int
    since: float
    started: float
    identity: Identity
    cwd: str
    cgroup: str | None
    terminal: bool
    pipes: dict[str, int]
    key: str | None
    fingerprint: str
    argv: tuple[str, ...]
    command: str
    stdin: Literal["pipe", "null", "fed"]
    timeout: float | None
    output_limit: int | None
    limits: Limits
    tags: dict[str, str]

    @property
    def order(self) -> Order:
        """Without what is not kept."""
        return Order(
            self.argv,
            self.command,
            stdin="pipe" if self.stdin == "pipe" else "null",
            timeout=self.timeout,
            output_limit=self.output_limit,
            limits=self.limits,
            tags=self.tags,
        )


_records = msgspec.json.Decoder(Record)
_endings = msgspec.json.Decoder(Ended)


class Kept:
    """One process's part of the store. names: there, the first is its own. found: whether an earlier daemon started
    it."""

    def __init__(
        self, store: FdStore, names: Sequence[str], journal: Journal, spawn: Spawn, *, found: bool = False
    ) -> None:
        self.name = names[0]
        self.journal = journal
        self.found = found
        self._store = store
        self._names = [*names]
        self._spawn = spawn
        self._left = False

    def put_spill(self, spill: Spill) -> None:
        """Blocks."""
        self._names.append(self.name + _SPILL)
        self._store.put(self.name + _SPILL, [spill.fd])

    def end_input(self) -> None:
        """The store lets go of it, without which its end would not be seen."""
        self.journal.input_ended = not self._left
        self._remove([self.name + _INPUT])

    def end(self, ended: Ended) -> None:
        self.journal.ending = msgspec.json.encode(ended)

    def remove(self) -> None:
        """Takes all of it out."""
        self._remove(self._names)

    def leave(self) -> None:
        """To the next daemon, as it is now: nothing is taken out any more."""
        self._left = True

    def _remove(self, names: Sequence[str]) -> None:
        gone = [name for name in names if name in self._names]
        if gone and not self._left:
            self._names = [name for name in self._names if name not in gone]
            self._spawn(in_thread(self._store.remove, *gone, pool=STORE))


class Survivor(msgspec.Struct, frozen=True):
    """A process that an earlier daemon started. log: of its output. spill: where that is; None in the journal, or gone.
    uncertain: nobody knows how much input it was given. ended: None while it runs, as far as that was written down."""

    kept: Kept
    record: Record
    child: Child
    wires: Wires
    log: EventLog
    spill: Spill | None
    uncertain: bool
    ended: Ended | None


def fingerprint(order: Order) -> str:
    """The same for the same order alone."""
    maps = sorted(order.env.items()), sorted(order.tags.items())
    text = repr((msgspec.structs.astuple(msgspec.structs.replace(order, env={}, tags={})), maps))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def keep(
    store: FdStore,
    spawn: Spawn,
    order: Order,
    child: Child,
    wires: Wires,
    *,
    sizes: tuple[int, int, int],
    **facts: Any,
) -> Kept | None:
    """Puts a process into the store; None where that cannot be: then it ends with the daemon. Blocks.

    sizes: capacity, head and memory of its output. facts: those of a `Record` that the others do not tell."""
    if not is_pidfd(child.fd):
        _log.warning("processes end with the daemon: there are no pidfds here")
        return None
    record = Record(
        pid=child.pid,
        mark=child.mark,
        since=child.since,
        cgroup=None if child.cgroup is None else child.cgroup.name,
        terminal=wires.terminal,
        pipes={stream.value: os.fstat(fd).st_ino for stream, fd in wires.outputs.items()},
        argv=order.argv,
        command=order.command,
        stdin="fed" if isinstance(order.stdin, bytes) else order.stdin,
        timeout=order.timeout,
        output_limit=order.output_limit,
        limits=order.limits,
        tags=dict(order.tags),
        **facts,
    )
    try:
        journal = Journal.new(*sizes, msgspec.json.encode(record))
    except (OSError, UnicodeEncodeError) as error:
        _log.warning("a process will end with the daemon: %s", error)
        return None
    names = [FdStore.name(_KIND)]
    if wires.input >= 0:
        names.append(names[0] + _INPUT)
        store.put(names[1], [wires.input])
    journal.feeding = record.stdin == "fed"
    store.put(names[0], [journal.fd, child.fd, *wires.outputs.values()])
    return Kept(store, names, journal, spawn)


def survivors(store: FdStore, spawn: Spawn, cgroups: Cgroups | None) -> list[Survivor]:
    """Those that are in the store, the oldest first. Whatever else is there of processes is taken out. Blocks."""
    found = []
    for name in store.names(_KIND):
        if not name.endswith((_INPUT, _SPILL)):
            fds, given, spills = (store.claim(name + kind) for kind in ("", _INPUT, _SPILL))
            try:
                found.append(_survivor(store, spawn, name, fds, given, spills, cgroups))
            except (ValueError, OSError, msgspec.DecodeError) as error:
                _log.warning("a process of an earlier daemon is lost: %s", error)
                store.remove(name, name + _INPUT, name + _SPILL)
    for name in store.names(_KIND):
        store.claim(name)
        store.remove(name)
    return sorted(found, key=lambda one: one.record.started)


def _survivor(
    store: FdStore,
    spawn: Spawn,
    name: str,
    fds: list[Descriptor],
    given: list[Descriptor],
    spills: list[Descriptor],
    cgroups: Cgroups | None,
) -> Survivor:
    pipes = {os.fstat(one.fd).st_ino: one for one in fds if stat.S_ISFIFO(os.fstat(one.fd).st_mode)}
    pidfds = [one for one in fds if is_pidfd(one.fd)]
    others = [one for one in fds if one not in pidfds and one not in pipes.values()]
    if len(others) != 1 or len(pidfds) != 1:
        raise Damaged(f"{len(fds)} of its fds are there")
    journal = Journal.found(others[0])
    record = _records.decode(journal.record)
    if not pipes.keys() >= {*record.pipes.values()}:
        raise Damaged("a pipe of its output is not there")
    ended = _endings.decode(journal.ending) if journal.ending else None
    spill = next((Spill(one.detach()) for one in spills if os.fstat(one.fd).st_ino == journal.spilled), None)
    log = journal.resume(None if spill is None else spill.fd)
    cgroup = None if cgroups is None or record.cgroup is None else cgroups.leaf(record.cgroup)
    if journal.input_ended:
        given = []
        store.remove(name + _INPUT)
    child = Child(record.pid, pidfds[0].detach(), record.mark, record.since, cgroup)
    wires = Wires({}, _outputs(record.pipes, pipes), given[0].detach() if given else -1, terminal=record.terminal)
    names = [name, *([name + _INPUT] if given else []), *([name + _SPILL] if spills else [])]
    kept = Kept(store, names, journal, spawn, found=True)
    return Survivor(kept, record, child, wires, log, spill, journal.feeding, ended)


def _outputs(wanted: Mapping[str, int], pipes: Mapping[int, Descriptor]) -> dict[Stream, int]:
    return {Stream(name): pipes[inode].detach() for name, inode in wanted.items() if inode in pipes}
