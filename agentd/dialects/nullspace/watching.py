"""Changes of files as they happen: section 2.6 of the wire contract, and a stream of our own with all that is known.

The contract's frames have one path, so a rename is two events there: of the old path and of the new one. Where events
were lost it says ``resync_required``, the contract's word for a watcher that has to list anew.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated, Any

from msgspec import Meta, Struct

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.values import user_name
from agentd.errors import AgentError, InvalidRequest
from agentd.files import event as words
from agentd.files.watch import Watch, Watches
from agentd.http.codec import decode_json, encode
from agentd.http.ending import Ending
from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.http.events import NDJSON, SSE, Event, stream
from agentd.http.socket import Socket
from agentd.linux.places import Places
from agentd.linux.threads import in_thread

RESYNC = "resync_required"
_LAST_WORDS = {
    words.REMOVED: "it was removed",
    words.MOVED: "it, or a directory above it, was moved",
    words.UNMOUNTED: "its file system was unmounted",
}


class WatchParams(Struct):
    """recursive: with all directories below."""

    path: str
    user: str | None = None
    recursive: bool = False


class FileWatch(Struct, tag_field="type", tag="file_watch"):
    """timeout_secs: the watch ends then, without a word, as the client ends it too."""

    path: str
    id: str = ""
    user: str | None = None
    recursive: bool = False
    timeout_secs: Annotated[float, Meta(ge=0, le=1e9)] | None = None


class WatchRows:
    def __init__(self, watches: Watches, places: Places) -> None:
        self._watches = watches
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/watch", "files.watch", self.follow),
                params=WatchParams,
                sends=(NDJSON, SSE),
                summary="Changes of a directory, a tree or a file as they happen: NDJSON, or server-sent events",
                errors=(*PATH_ERRORS, errors.InvalidRequest, errors.CapacityExceeded),
            ),
        )

    async def follow(self, call: Call) -> StreamResult:
        """What cannot be watched is refused; from the answer's first line (``started``) on, every change is told."""
        async with AsyncExitStack() as stack:
            params: WatchParams = call.params
            watch = await self._open(stack, params, call.ending)
            return stream(call, _told(watch, call.ending), (NDJSON, SSE), held=stack.pop_all())
        raise AssertionError("unreachable")

    async def converse(self, call: Call, socket: Socket) -> None:
        """Any number of watches on one socket, until the client closes it."""
        async with asyncio.TaskGroup() as group:
            while True:
                text = await socket.receive()
                try:
                    wanted: FileWatch = decode_json(text.encode() if isinstance(text, str) else text, FileWatch)
                except InvalidRequest as error:
                    await _send(socket, "error", "", message=f"invalid message: {error.detail}", code=error.code)
                    continue
                group.create_task(self._tell(wanted, socket))

    async def _tell(self, wanted: FileWatch, socket: Socket) -> None:
        try:
            async with AsyncExitStack() as stack, asyncio.timeout(wanted.timeout_secs) as time:
                watch = await self._open(stack, wanted, socket.ending)
                await _send(socket, "file_watch_started", wanted.id)
                async for batch in watch:
                    for event in batch:
                        for frame in _frames(event):
                            await _send(socket, "file_event", wanted.id, **frame)
            code = _reason(watch, socket.ending)
            message = f"{watch.path} is watched no longer: {_LAST_WORDS.get(code, socket.ending.why)}"
            await _send(socket, "error", wanted.id, message=message, code=code)
        except TimeoutError:
            if not time.expired():
                raise
        except AgentError as error:
            await _send(socket, "error", wanted.id, message=f"{error.code}: {error.detail}", code=error.code)

    async def _open(self, stack: AsyncExitStack, wanted: WatchParams | FileWatch, ending: Ending) -> Watch:
        place = await in_thread(self._places.find, wanted.path, user_name(wanted.user))
        return await stack.enter_async_context(
            self._watches.watch(place, recursive=wanted.recursive, until=ending.begun),
        )


def _frames(event: words.Event) -> list[dict[str, str]]:
    """The contract's keys of a ``file_event``, and no others."""
    kind = RESYNC if event.kind == words.OVERFLOW else event.kind
    frame = {"event": kind, "path": event.path, "name": event.name}
    if event.old_path is None:
        return [frame]
    old = event.old_path
    return [{**frame, "path": old, "name": old.removeprefix(event.path.removesuffix(event.name))}, frame]


async def _send(socket: Socket, kind: str, ident: str, **values: Any) -> None:
    await socket.send(encode({"type": kind, "id": ident, **values}).decode())


async def _told(watch: Watch, ending: Ending) -> AsyncGenerator[Event, None]:
    yield Event({"event": "started", "path": watch.path}, "started")
    try:
        async for batch in watch:
            for event in batch:
                yield Event(_value(event), event.kind)
        yield Event({"event": "end", "path": watch.path, "reason": _reason(watch, ending)}, "end")
    except AgentError as error:
        value = {"event": "end", "path": watch.path, "reason": error.code, "detail": error.detail}
        yield Event(value, "end")


def _reason(watch: Watch, ending: Ending) -> str:
    return ending.word if watch.ended in (None, words.DRAINING) else watch.ended


def _value(event: words.Event) -> dict[str, object]:
    value: dict[str, object] = {
        "event": event.kind,
        "path": event.path,
        "name": event.name,
        "is_dir": event.is_dir,
        "mask": event.mask,
    }
    return value if event.old_path is None else value | {"old_path": event.old_path}
