"""One handle, as its owner and its record know it (see `processes.handles`)."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from agentd.processes.records import Records

_log = logging.getLogger("agentd.processes")

Act = Literal["delete", "stop"]
# What a record may say; it is nowhere infinite, nor too much for a timer or an answer.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e13)]
First = Annotated[int, msgspec.Meta(ge=1 << 32, le=1 << 59, multiple_of=1 << 32)]


class Lease(msgspec.Struct, frozen=True):
    """When a handle ends by itself. Seconds; None: never.

    lifetime: from its creation, or where that is told later from then, until ``then`` is done; one that is stopped by
    it has as long again after its next start. idle: without a call, until ``when_idle``. stopped: that it is kept.
    """

    lifetime: Seconds | None = None
    then: Act = "delete"
    idle: Seconds | None = None
    when_idle: Act = "stop"
    stopped: Seconds | None = None


class NewHandle(msgspec.Struct, frozen=True):
    """What to create. prefix: of its id. name: nobody else's, empty for its id. cwd: absolute, in sandbox terms, made
    where it is missing; None for the daemon's own. user: as whom everything is done; None for the daemon's default.
    metadata: what a client says of it. notes: what an API keeps with it."""

    prefix: str
    name: str = ""
    cwd: str | None = None
    env: Mapping[str, str] = {}
    user: str | None = None
    metadata: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    lease: Lease = Lease()


class Handle(msgspec.Struct, kw_only=True):
    """One handle; changed by `Handles` alone. Times are Unix time.

    started: last. active: of the last call. expires: see `Lease.lifetime`. stopped: since when; None while it runs.
    first: of the marks of its processes (see `linux.descendants`), by which they are found after the daemon's death.
    left: of those that earlier daemons have left, until they have ended.
    """

    id: str
    name: str
    created: Seconds
    started: Seconds
    active: Seconds
    stopped: Seconds | None
    expires: Seconds | None
    cwd: str | None
    env: dict[str, str]
    user: str | None
    metadata: dict[str, Any]
    notes: dict[str, Any]
    lease: Lease
    first: First
    left: list[First] = []

    @property
    def running(self) -> bool:
        return self.stopped is None


def read(records: Records) -> list[Handle]:
    """Those that can be. Blocks."""
    found = []
    for name, content in records.all():
        try:
            handle = msgspec.convert(json.loads(content), Handle)
            if handle.id != name:
                raise ValueError(f"it is that of {handle.id}")
            found.append(handle)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            _log.error("the record of the handle %s is left as it is: %s", name, error)
    return found


def written(handle: Handle) -> bytes:
    """What a client has named may be no Unicode (lone surrogates), which this JSON takes."""
    return json.dumps(msgspec.to_builtins(handle)).encode()


def expiry(lease: Lease) -> float | None:
    """Of one whose lifetime begins now."""
    return None if lease.lifetime is None else time.time() + lease.lifetime
