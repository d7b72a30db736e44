"""What the APIs share that create, list and delete handles in stand-alone mode (see `processes.handles`)."""

import math
from collections.abc import Callable, Sequence

import msgspec

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.values import place_of
from agentd.errors import InvalidRequest, NotSupported
from agentd.linux.meter import Meter
from agentd.linux.places import Places
from agentd.linux.threads import in_thread
from agentd.processes.handle import Handle

CREATE_ERRORS = (*PATH_ERRORS, errors.InvalidRequest, errors.CapacityExceeded, errors.KeyReused, errors.NotSupported)

_GIB = 1 << 30


class Size(msgspec.Struct, frozen=True):
    """Of the machine, which is the same for each handle, whatever was asked for. memory, disk: bytes."""

    cpus: int
    memory: int
    disk: int

    @property
    def memory_gib(self) -> int:
        return math.ceil(self.memory / _GIB)

    @property
    def disk_gib(self) -> int:
        return math.ceil(self.disk / _GIB)


async def size_of(meter: Meter) -> Size:
    found = await in_thread(meter.sample)
    return Size(found.cpu_count, found.memory_total, found.disk_total)


async def directory_of(places: Places, cwd: str | None, user: str | None) -> str | None:
    """The absolute path that a handle's directory is; None for none. UnknownUser, InvalidPath."""
    place = await in_thread(place_of, places, cwd or ".", user)
    return place.path if cwd else None


def refuse(asked: dict[str, object]) -> None:
    """NotSupported for what cannot be had of the one machine that there is: whatever is not empty. By field."""
    for field, value in asked.items():
        if value:
            what = f"{field}: stand-alone, the daemon serves the machine that it runs on as it is; leave it out"
            raise NotSupported(what, field=field)


def page(handles: Sequence[Handle], after: str | None, limit: int) -> tuple[list[Handle], str | None]:
    """Those behind the cursor ``after`` (None: from the first), and the cursor of those that follow, if any do."""
    rest = [handle for handle in handles if after is None or _cursor(handle) > after]
    return rest[:limit], _cursor(rest[limit - 1]) if len(rest) > limit else None


def said(metadata: str | None, field: str) -> Callable[[Handle], bool]:
    """Whether all that a JSON object says is in a handle's metadata. InvalidRequest where it is none."""
    if metadata is None:
        return lambda _: True
    try:
        wanted = msgspec.json.decode(metadata.encode(errors="surrogateescape"), type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError):
        raise InvalidRequest("it has to be an object in JSON", field=field) from None
    return lambda handle: all(handle.metadata.get(name) == value for name, value in wanted.items())


def _cursor(handle: Handle) -> str:
    """In the order of their creation."""
    return f"{handle.created:017.6f}.{handle.id}"
