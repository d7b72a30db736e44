"""Machines in stand-alone mode: section 4 of the wire contract, where the daemon is its own control plane.

``hibernate`` stops a machine and ``resume`` starts it: files stay, processes and their memory do not. What a client
cannot have of the one machine that there is (volumes, snapshots, a network of its own) is refused, its size ignored.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from agentd import errors
from agentd.dialects.lives import CREATE_ERRORS, Size, directory_of, page, refuse, said, size_of
from agentd.dialects.values import REPEATS, rfc3339
from agentd.errors import InvalidRequest, MachineNotFound, SandboxNotFound
from agentd.http.endpoint import Call, Endpoint
from agentd.http.repeats import KEY, Repeats
from agentd.linux.meter import Meter
from agentd.linux.places import Places
from agentd.processes.handle import Act, Handle, Lease, NewHandle
from agentd.processes.handles import Handles

MOUNTS = ("/v1/machines", "/v1/sandboxes")
LIVES_MS = 300_000

_ACTS: dict[str, Act] = {"destroy": "delete", "hibernate": "stop", "pause": "stop"}
_WORDS: dict[Act, str] = {"delete": "destroy", "stop": "hibernate"}
_ERRORS = (MachineNotFound, SandboxNotFound)

Milliseconds = Annotated[int, Meta(ge=1, le=1 << 53)]


class OnTimeout(Struct):
    on_timeout: Literal["destroy", "pause"] = "destroy"


class CreateBody(Struct, kw_only=True):
    """timeout_ms: after which the machine is destroyed, or stopped where ``timeout_action`` is hibernate.
    inactivity_timeout_ms: the same, without a call. auto_delete_after_ms: that a stopped one is kept. template is
    noted, and so is metadata."""

    template: str = "base"
    envs: dict[str, str] | None = None
    metadata: dict[str, Any] | None = None
    cwd: str | None = None
    timeout_ms: Milliseconds | None = None
    timeout_action: Literal["destroy", "hibernate"] | None = None
    lifecycle: OnTimeout | None = None
    inactivity_timeout_ms: Milliseconds | None = None
    auto_delete_after_ms: Milliseconds | None = None
    ephemeral: bool = False
    snapshot_id: str | None = None
    internet_access: bool = True
    network: dict[str, Any] | None = None
    desktop: dict[str, Any] | None = None
    volumes: list[dict[str, Any]] | None = None


class ListParams(Struct):
    """state: several with commas between them. metadata: a JSON object, all of which a machine says. fields: those that
    are wanted, with commas between them."""

    state: str | None = None
    template: str | None = None
    metadata: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    next_token: str | None = None
    fields: str | None = None


class MachineParams(Struct):
    id: str


class GetParams(MachineParams):
    fields: str | None = None


class TimeoutBody(Struct):
    timeout_ms: Milliseconds
    timeout_action: Literal["destroy", "hibernate"] | None = None


class TimeoutReport(Struct):
    timeout_ms: int
    timeout_action: str
    timeout_at: str
    remaining_ms: int


class Config(Struct):
    """Of the machine that the daemon runs on."""

    vcpus: int
    memory_mb: int


class Machine(Struct, kw_only=True):
    """status: ``running``, or ``paused`` where it is stopped; then snapshot_id is what to resume."""

    id: str
    status: str
    config: Config
    template: str
    metadata: dict[str, Any]
    created_at: str
    started_at: str
    last_active_at: str
    timeout_action: str
    ephemeral: bool
    timeout_ms: int | UnsetType = UNSET
    timeout_at: str | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET
    remaining_ms: int | UnsetType = UNSET
    inactivity_timeout_ms: int | UnsetType = UNSET
    auto_delete_after_ms: int | UnsetType = UNSET
    cwd: str | UnsetType = UNSET
    snapshot_id: str | UnsetType = UNSET


class Machines(Struct):
    items: list[Machine]
    has_next: bool
    next_token: str | UnsetType = UNSET


class MachineParts(Struct):
    """items: of each `Machine` the fields that are wanted."""

    items: list[dict[str, Any]]
    has_next: bool
    next_token: str | UnsetType = UNSET


class Destroyed(Struct):
    id: str
    status: str = "destroyed"


class Hibernated(Struct, kw_only=True):
    """machine_id, or sandbox_id by the mount that is asked. size_bytes: nothing is kept of memory."""

    id: str
    machine_id: str | UnsetType = UNSET
    sandbox_id: str | UnsetType = UNSET
    size_bytes: int = 0
    created_at: str
    metadata: dict[str, Any]


class MachineRows:
    def __init__(self, handles: Handles, meter: Meter, places: Places) -> None:
        self._handles = handles
        self._meter = meter
        self._places = places
        self._repeats = Repeats()

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Below mounts of their own: stand-alone mode has them alone."""
        return (
            Endpoint(
                *("POST", "", "machines.create", self.create),
                body=CreateBody,
                result=Machine,
                status=201,
                mounts=MOUNTS,
                headers=REPEATS,
                summary="Create a machine: a name for this one, with variables, a directory and processes of its own",
                errors=CREATE_ERRORS,
            ),
            Endpoint(
                *("GET", "", "machines.list", self.list),
                params=ListParams,
                result=Machines,
                also=((200, MachineParts),),
                mounts=MOUNTS,
                summary="List the machines, the oldest first",
                errors=(InvalidRequest,),
            ),
            Endpoint(
                *("GET", "/{id}", "machines.get", self.get),
                params=GetParams,
                result=Machine,
                also=((200, dict[str, Any]),),
                mounts=MOUNTS,
                summary="Describe a machine",
                errors=_ERRORS,
            ),
            Endpoint(
                *("DELETE", "/{id}", "machines.delete", self.delete),
                params=MachineParams,
                result=Destroyed,
                mounts=MOUNTS,
                summary="End all that runs in a machine, and forget it",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", "/{id}/timeout", "machines.timeout", self.set_timeout),
                params=MachineParams,
                body=TimeoutBody,
                result=TimeoutReport,
                mounts=MOUNTS,
                summary="Say how long a machine lives from now on",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", "/{id}/hibernate", "machines.stop", self.stop),
                params=MachineParams,
                result=Hibernated,
                mounts=MOUNTS,
                takes=(),
                summary="Stop a machine: all that runs in it is ended, and nothing is kept of memory",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", "/{id}/resume", "machines.start", self.start),
                params=MachineParams,
                result=Machine,
                mounts=MOUNTS,
                takes=(),
                summary="Start a machine that was stopped; nothing runs in it",
                errors=(*_ERRORS, errors.UnknownUser, errors.PathReserved),
            ),
        )

    async def create(self, call: Call) -> Machine:
        """Repeated with its key, it is the same machine."""
        body: CreateBody = call.data
        network = {name: value for name, value in (body.network or {}).items() if value and name.endswith("_out")}
        asked = {"snapshot_id": body.snapshot_id, "volumes": body.volumes, "desktop": body.desktop, "network": network}
        refuse({**asked, "internet_access": not body.internet_access})

        async def make() -> Machine:
            new = NewHandle(
                prefix="sb_" if "sandboxes" in call.mount else "mch_",
                cwd=await directory_of(self._places, body.cwd, None),
                env=body.envs or {},
                metadata=body.metadata or {},
                notes={"template": body.template, "ephemeral": body.ephemeral},
                lease=_lease(body),
            )
            return _machine(await self._handles.create(new), await size_of(self._meter))

        return await self._handles.carry_out(self._repeats.once(call.headers.get(KEY), (call.mount, body), make))

    async def list(self, call: Call) -> Machines | MachineParts:
        params: ListParams = call.params
        wanted = said(params.metadata, "metadata")
        states = (params.state or "running,paused").split(",")
        found = [
            handle
            for handle in self._handles.list()
            if wanted(handle) and _status(handle) in states and params.template in (None, _template(handle))
        ]
        handles, token = page(found, params.next_token, params.limit)
        size = await size_of(self._meter)
        listed = [_machine(handle, size) for handle in handles]
        if params.fields is None:
            return Machines(listed, token is not None, UNSET if token is None else token)
        items = [_part(machine, params.fields) for machine in listed]
        return MachineParts(items, token is not None, UNSET if token is None else token)

    async def get(self, call: Call) -> Machine | dict[str, Any]:
        with _named(call):
            machine = _machine(self._handles.get(call.params.id), await size_of(self._meter))
        return machine if call.params.fields is None else _part(machine, call.params.fields)

    async def delete(self, call: Call) -> Destroyed:
        with _named(call):
            return Destroyed((await self._handles.delete(call.params.id)).id)

    async def set_timeout(self, call: Call) -> TimeoutReport:
        body: TimeoutBody = call.data
        with _named(call):
            lease = self._handles.get(call.params.id).lease
            then = lease.then if body.timeout_action is None else _ACTS[body.timeout_action]
            changed = Lease(body.timeout_ms / 1000, then, lease.idle, lease.when_idle, lease.stopped)
            handle = await self._handles.change(call.params.id, lease=changed, renewed=True)
        expires = handle.expires or 0
        return TimeoutReport(body.timeout_ms, _WORDS[then], rfc3339(expires), _remaining(expires))

    async def stop(self, call: Call) -> Hibernated:
        with _named(call):
            handle = await self._handles.stop(call.params.id)
        made = Hibernated(id=handle.id, created_at=rfc3339(handle.stopped or handle.created), metadata=handle.metadata)
        if "sandboxes" in call.mount:
            made.sandbox_id = handle.id
        else:
            made.machine_id = handle.id
        return made

    async def start(self, call: Call) -> Machine:
        with _named(call):
            return _machine(await self._handles.start(call.params.id), await size_of(self._meter))


@contextmanager
def _named(call: Call) -> Iterator[None]:
    """What is not there is called as the client calls it."""
    try:
        yield
    except SandboxNotFound as error:
        if "machines" in call.mount:
            raise MachineNotFound(error.detail) from None
        raise


def _lease(body: CreateBody) -> Lease:
    word = body.timeout_action or (body.lifecycle.on_timeout if body.lifecycle else "destroy")
    act: Act = "delete" if body.ephemeral else _ACTS[word]
    return Lease(
        lifetime=(body.timeout_ms or LIVES_MS) / 1000,
        then=act,
        idle=None if body.inactivity_timeout_ms is None else body.inactivity_timeout_ms / 1000,
        when_idle=act,
        stopped=None if body.auto_delete_after_ms is None else body.auto_delete_after_ms / 1000,
    )


def _status(handle: Handle) -> str:
    return "running" if handle.running else "paused"


def _template(handle: Handle) -> str:
    return str(handle.notes.get("template", "base"))


def _remaining(expires: float) -> int:
    return max(0, round((expires - time.time()) * 1000))


def _milliseconds(seconds: float | None) -> int | UnsetType:
    return UNSET if seconds is None else round(seconds * 1000)


def _machine(handle: Handle, size: Size) -> Machine:
    until = UNSET if handle.expires is None else rfc3339(handle.expires)
    return Machine(
        id=handle.id,
        status=_status(handle),
        config=Config(size.cpus, size.memory >> 20),
        template=_template(handle),
        metadata=handle.metadata,
        created_at=rfc3339(handle.created),
        started_at=rfc3339(handle.started),
        last_active_at=rfc3339(handle.active),
        timeout_action=_WORDS[handle.lease.then],
        ephemeral=bool(handle.notes.get("ephemeral")),
        timeout_ms=_milliseconds(handle.lease.lifetime),
        timeout_at=until,
        expires_at=until,
        remaining_ms=UNSET if handle.expires is None else _remaining(handle.expires),
        inactivity_timeout_ms=_milliseconds(handle.lease.idle),
        auto_delete_after_ms=_milliseconds(handle.lease.stopped),
        cwd=UNSET if handle.cwd is None else handle.cwd,
        snapshot_id=UNSET if handle.running else handle.id,
    )


def _part(machine: Machine, fields: str) -> dict[str, Any]:
    """The fields that are wanted, as far as there are such."""
    whole: dict[str, Any] = to_builtins(machine)
    names = fields.split(",")
    return whole if "all" in names else {name: whole[name] for name in names if name in whole}
