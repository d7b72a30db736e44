"""Sandboxes in stand-alone mode: of Daytona's control plane, below ``/daytona/api``, what its SDK needs from `create`
to `delete`. The toolbox of each is below ``/daytona/toolbox/{sandbox_id}``.

A snapshot and an image are noted, since there is one machine alone; what else cannot be had of it (volumes, secrets, a
network of its own) is refused, sizes are ignored. Intervals are in minutes.
"""

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, json

from agentd import errors
from agentd.dialects.daytona.wire import empty
from agentd.dialects.lives import CREATE_ERRORS, Size, directory_of, page, refuse, said, size_of
from agentd.dialects.values import REPEATS, rfc3339, user_name
from agentd.errors import InvalidRequest, SandboxNotFound
from agentd.http.endpoint import Call, Endpoint, TextResult
from agentd.http.repeats import KEY, Repeats
from agentd.linux.meter import Meter
from agentd.linux.places import Places
from agentd.linux.threads import in_thread
from agentd.processes.handle import Handle, Lease, NewHandle
from agentd.processes.handles import Handles

MOUNTS = ("/daytona/api",)
MINUTE = 60.0

_ERRORS = (SandboxNotFound,)

Minutes = Annotated[float, Meta(ge=0, le=1e9, description="0: never")]
Kept = Annotated[float, Meta(ge=-1e9, le=1e9, description="less than 0: for good")]


class CreateBody(Struct, rename="camel", kw_only=True):
    """name: nobody else's; else its id. user: as whom everything is done. ttl_minutes: after which it is deleted.
    auto_stop_interval: without a call. auto_delete_interval: that a stopped one is kept, less than 0 for good."""

    name: Annotated[str, Meta(max_length=1024)] | None = None
    snapshot: str | None = None
    user: str | None = None
    env: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    public: bool | None = None
    auto_stop_interval: Minutes | None = None
    auto_delete_interval: Kept | None = None
    ttl_minutes: Minutes | None = None
    network_block_all: bool | None = None
    network_allow_list: str | None = None
    domain_allow_list: str | None = None
    outbound_proxy_url: str | None = None
    volumes: list[dict[str, Any]] | None = None
    secrets: list[dict[str, str]] | None = None
    linked_sandbox: str | None = None


class ListParams(Struct):
    """id, name: what it begins with, in any case. labels: a JSON object, all of which a sandbox has."""

    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 100
    id: str = ""
    name: str = ""
    labels: str | None = None
    states: list[str] = []


class SandboxParams(Struct):
    """sandbox: its id or its name."""

    sandbox: str


class StopParams(SandboxParams):
    force: bool = False


class MinutesParams(SandboxParams):
    minutes: Minutes


class KeepParams(SandboxParams):
    minutes: Kept


class Labels(Struct):
    labels: dict[str, str]


class Url(Struct):
    url: str


class Sandbox(Struct, rename="camel", kw_only=True):
    """cpu, memory and disk (GiB) are the machine's that the daemon runs on. state: started, stopped or destroyed."""

    id: str
    organization_id: str
    name: str
    user: str
    env: dict[str, str]
    labels: dict[str, str]
    public: bool
    network_block_all: bool
    kvm: bool
    target: str
    cpu: int
    gpu: int
    memory: int
    disk: int
    state: str
    desired_state: str
    auto_stop_interval: float
    auto_delete_interval: float
    created_at: str
    updated_at: str
    last_activity_at: str
    toolbox_proxy_url: str
    snapshot: str | UnsetType = UNSET
    auto_destroy_at: str | UnsetType = UNSET


class Sandboxes(Struct, rename="camel"):
    items: list[Sandbox]
    next_cursor: str | None


class SandboxRows:
    def __init__(self, handles: Handles, meter: Meter, places: Places) -> None:
        self._handles = handles
        self._meter = meter
        self._places = places
        self._repeats = Repeats()

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Below mounts of their own: stand-alone mode has them alone."""
        sandbox = "/sandbox/{sandbox}"
        return (
            Endpoint(
                *("POST", "/sandbox", "sandboxes.create", self.create),
                body=CreateBody,
                result=Sandbox,
                mounts=MOUNTS,
                headers=REPEATS,
                summary="Create a sandbox: a name for this machine, with variables and processes of its own",
                errors=(*CREATE_ERRORS, errors.Conflict),
            ),
            Endpoint(
                *("GET", "/sandbox", "sandboxes.list", self.list),
                params=ListParams,
                result=Sandboxes,
                mounts=MOUNTS,
                summary="List the sandboxes, the oldest first",
                errors=(InvalidRequest,),
            ),
            Endpoint(
                *("GET", sandbox, "sandboxes.get", self.get),
                params=SandboxParams,
                result=Sandbox,
                mounts=MOUNTS,
                summary="Describe a sandbox",
                errors=_ERRORS,
            ),
            Endpoint(
                *("DELETE", sandbox, "sandboxes.delete", self.delete),
                params=SandboxParams,
                result=Sandbox,
                mounts=MOUNTS,
                summary="End all that runs in a sandbox, and forget it",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", sandbox + "/start", "sandboxes.start", self.start),
                params=SandboxParams,
                result=Sandbox,
                mounts=MOUNTS,
                takes=(),
                summary="Start a sandbox that was stopped; nothing runs in it",
                errors=(*_ERRORS, errors.UnknownUser),
            ),
            Endpoint(
                *("POST", sandbox + "/stop", "sandboxes.stop", self.stop),
                params=StopParams,
                result=Sandbox,
                mounts=MOUNTS,
                takes=(),
                summary="Stop a sandbox: all that runs in it is ended, with `force` at once",
                errors=_ERRORS,
            ),
            Endpoint(
                *("PUT", sandbox + "/labels", "sandboxes.labels", self.set_labels),
                params=SandboxParams,
                body=Labels,
                result=Labels,
                mounts=MOUNTS,
                summary="Give a sandbox other labels",
                errors=_ERRORS,
            ),
            *(
                Endpoint(
                    *("POST", f"{sandbox}/{word}/{{minutes}}", f"sandboxes.{word}", act),
                    params=params,
                    result=Sandbox,
                    mounts=MOUNTS,
                    takes=(),
                    summary=summary,
                    errors=_ERRORS,
                )
                for word, act, params, summary in (
                    ("autostop", self.set_idle, MinutesParams, "Say after how long without a call it is stopped"),
                    ("autodelete", self.set_kept, KeepParams, "Say how long it is kept once it is stopped"),
                    ("ttl", self.set_lifetime, MinutesParams, "Say how long it lives from now on"),
                )
            ),
            Endpoint(
                *("POST", sandbox + "/last-activity", "sandboxes.activity", self.touch),
                params=SandboxParams,
                mounts=MOUNTS,
                takes=(),
                summary="Keep a sandbox from being idle",
                errors=_ERRORS,
            ),
            Endpoint(
                *("GET", sandbox + "/toolbox-proxy-url", "sandboxes.toolbox", self.toolbox),
                params=SandboxParams,
                result=Url,
                mounts=MOUNTS,
                summary="Say below which URL, with the id behind it, the toolbox of a sandbox is",
                errors=_ERRORS,
            ),
        )

    async def create(self, call: Call) -> Sandbox:
        """Repeated with its key, it is the same sandbox."""
        body: CreateBody = call.data
        names = ("volumes", "secrets", "linked_sandbox", "outbound_proxy_url")
        limits = ("network_block_all", "network_allow_list", "domain_allow_list")
        refuse({name: getattr(body, name) for name in (*names, *limits)})

        async def make() -> Sandbox:
            user = user_name(body.user)
            await directory_of(self._places, None, user)
            new = NewHandle(
                prefix="sb_",
                name=body.name or "",
                env=body.env or {},
                user=user,
                metadata=dict(body.labels or {}),
                notes={"snapshot": body.snapshot, "public": bool(body.public)},
                lease=Lease(
                    lifetime=_seconds(body.ttl_minutes),
                    idle=_seconds(body.auto_stop_interval),
                    stopped=_kept(body.auto_delete_interval),
                ),
            )
            return await self._told(call, await self._handles.create(new))

        return await self._handles.carry_out(self._repeats.once(call.headers.get(KEY), body, make))

    async def list(self, call: Call) -> Sandboxes:
        params: ListParams = call.params
        wanted = said(params.labels, "labels")
        found = [
            handle
            for handle in self._handles.list()
            if wanted(handle)
            and handle.id.lower().startswith(params.id.lower())
            and handle.name.lower().startswith(params.name.lower())
            and (not params.states or _state(handle) in params.states)
        ]
        handles, cursor = page(found, params.cursor, params.limit)
        told = await self._teller(call)
        return Sandboxes([told(handle) for handle in handles], cursor)

    async def get(self, call: Call) -> Sandbox:
        return await self._told(call, self._found(call))

    async def delete(self, call: Call) -> Sandbox:
        told = await self._told(call, await self._handles.delete(self._found(call).id))
        told.state = told.desired_state = "destroyed"
        return told

    async def start(self, call: Call) -> Sandbox:
        return await self._told(call, await self._handles.start(self._found(call).id))

    async def stop(self, call: Call) -> Sandbox:
        grace = 0 if call.params.force else None
        return await self._told(call, await self._handles.stop(self._found(call).id, grace))

    async def set_labels(self, call: Call) -> Labels:
        handle = await self._handles.change(self._found(call).id, metadata=call.data.labels)
        return Labels(handle.metadata)

    async def set_idle(self, call: Call) -> Sandbox:
        handle = self._found(call)
        kept = handle.lease
        lease = Lease(kept.lifetime, kept.then, _seconds(call.params.minutes), "stop", kept.stopped)
        return await self._told(call, await self._handles.change(handle.id, lease=lease))

    async def set_kept(self, call: Call) -> Sandbox:
        handle = self._found(call)
        kept = handle.lease
        lease = Lease(kept.lifetime, kept.then, kept.idle, kept.when_idle, _kept(call.params.minutes))
        return await self._told(call, await self._handles.change(handle.id, lease=lease))

    async def set_lifetime(self, call: Call) -> Sandbox:
        handle = self._found(call)
        kept = handle.lease
        lease = Lease(_seconds(call.params.minutes), "delete", kept.idle, kept.when_idle, kept.stopped)
        return await self._told(call, await self._handles.change(handle.id, lease=lease, renewed=True))

    async def touch(self, call: Call) -> TextResult:
        with self._handles.call(self._found(call).id):
            return empty(200)

    async def toolbox(self, call: Call) -> Url:
        self._found(call)
        return Url(_toolbox(call))

    def _found(self, call: Call) -> Handle:
        return self._handles.find(call.params.sandbox)

    async def _told(self, call: Call, handle: Handle) -> Sandbox:
        return (await self._teller(call))(handle)

    async def _teller(self, call: Call) -> Callable[[Handle], Sandbox]:
        size = await size_of(self._meter)
        owner = (await in_thread(self._places.find, "/")).owner.name
        return lambda handle: _sandbox(handle, size, owner, _toolbox(call))


def _toolbox(call: Call) -> str:
    return f"{call.public_url()}{call.mount.removesuffix('/api')}/toolbox"


def _state(handle: Handle) -> str:
    return "started" if handle.running else "stopped"


def _seconds(minutes: float | None) -> float | None:
    """0 is never."""
    return minutes * MINUTE if minutes else None


def _kept(minutes: float | None) -> float | None:
    """Less than 0 is for good, 0 not at all."""
    return None if minutes is None or minutes < 0 else minutes * MINUTE


def _text(value: object) -> str:
    """What another API has noted may be no text."""
    return value if isinstance(value, str) else json.encode(value).decode()


def _sandbox(handle: Handle, size: Size, owner: str, toolbox: str) -> Sandbox:
    notes, lease = handle.notes, handle.lease
    snapshot = notes.get("snapshot")
    return Sandbox(
        id=handle.id,
        organization_id="",
        name=handle.name,
        user=handle.user or owner,
        env=handle.env,
        labels={name: _text(value) for name, value in handle.metadata.items()},
        public=bool(notes.get("public")),
        network_block_all=False,
        kvm=False,
        target="local",
        cpu=size.cpus,
        gpu=0,
        memory=size.memory_gib,
        disk=size.disk_gib,
        state=_state(handle),
        desired_state=_state(handle),
        auto_stop_interval=0 if lease.idle is None else lease.idle / MINUTE,
        auto_delete_interval=-1 if lease.stopped is None else lease.stopped / MINUTE,
        created_at=rfc3339(handle.created),
        updated_at=rfc3339(handle.stopped or handle.started),
        last_activity_at=rfc3339(handle.active),
        toolbox_proxy_url=toolbox,
        snapshot=str(snapshot) if snapshot else UNSET,
        auto_destroy_at=rfc3339(handle.expires) if handle.expires and lease.then == "delete" else UNSET,
    )
