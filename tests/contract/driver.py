"""Calls the published client that this interpreter finds, so that one test can drive any version of it.

One JSON object a line. First out: ``version``. Then in: ``style`` (sync, async), ``url``, ``token``, ``retries``,
``method`` ("files.NAME", "commands.NAME", ..., "machine.NAME" for the machine's own, or "client.NAME" for the low-level
client, which is given the machine's id first; "handle.NAME" is one of the command in the background that came last, and
"handle" goes through its output; "class.NAME" is one of the machine's class), ``machine`` (the id of one that was
created or connected to; "" for one that is reached without a control plane),
``positional``, ``named``; and out: ``result`` and ``progress`` (phase, bytes, parts), or ``error``: what the caller of
the client would have caught.

``on_stdout=True``, ``on_stderr=True`` and ``on_data=True`` put what the client calls them with into ``progress``:
(stream, text). Bytes, which are ``{"latin1": TEXT}`` on the way in, are such text on the way out.

"watch" is ``files.watch_dir``: the path, then steps (method and arguments) that are taken meanwhile; the result is what
was told (event, name, path) and why it ended, once the watch ended or told of a name ``last``.

A local path may be given as ``{"read": PATH, "offset": N, "length": N}`` (its bytes), ``{"open": PATH}`` (a file
object) or ``{"stream": PATH}`` (a generator, which cannot seek); a login for git as ``{"https": [NAME, PASSWORD]}``.
"""

import asyncio
import dataclasses
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

# The daemon's dependency. Not the client's, whose `pathspec` would use it and stumble over names that are no UTF-8.
sys.modules["re2"] = None  # type: ignore[assignment]

import nullspace  # noqa: E402
import nullspace.client  # noqa: E402
import nullspace.git  # noqa: E402
import nullspace.types  # noqa: E402

OLD = not hasattr(nullspace, "Machine")  # 0.1.x says "sandbox" where 1.0.x says "machine"
NOUN, IDENT = ("Sandbox", "sb_local") if OLD else ("Machine", "mch_local")
CHUNK = 100_000
UPLOADS = ("files.upload_file", "files.upload_dir", "files.resume_upload")

_runner = asyncio.Runner()
_machines: dict[tuple[Any, ...], Any] = {}
_handles: list[Any] = []


def connect(style: str, url: str, token: str, retries: int, machine: str) -> Any:
    """A machine that is kept for the next call."""
    key = style, url, token, retries, machine
    if key not in _machines:
        prefix = "Async" if style == "async" else ""
        config = getattr(nullspace.types, NOUN + "Config")()
        about = getattr(nullspace.types, NOUN + "Info")(id=IDENT, status="running", config=config, template="base")
        client = getattr(nullspace.client, prefix + "NullspaceClient")(token, url, upload_max_retries=retries)
        _machines[key] = getattr(nullspace, prefix + NOUN)(about, client)
    return _machines[key]


def of_class(style: str, url: str, token: str, retries: int, name: str, named: Any) -> Any:
    """What is created or connected to is kept."""
    found = getattr(nullspace, ("Async" if style == "async" else "") + NOUN)
    result = getattr(found, name)(api_key=token, base_url=url, **named)
    if style == "async":
        result = _runner.run(_awaited(result))
    if name == "list":
        result = [dataclasses.asdict(one) for one in result.items]
    elif hasattr(result, "id"):
        _machines[style, url, token, retries, result.id] = result
        result = dataclasses.asdict(result._info)
    return {"result": result, "progress": []}


async def _awaited(found: Any) -> Any:
    return await found


def stream(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


async def async_stream(path: str) -> AsyncIterator[bytes]:
    for chunk in stream(path):
        yield chunk


def value(given: Any, style: str) -> Any:
    match given:
        case {"stream": path}:
            return async_stream(path) if style == "async" else stream(path)
        case {"latin1": text}:
            return text.encode("latin-1")
        case {"https": [username, password]}:
            return nullspace.git.GitHttpsAuth(username, password)
        case {"open": path}:
            return open(path, "rb")
        case {"read": path, "offset": offset, "length": length}:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(length)
    return given


def watch(machine: Any, style: str, path: str, *steps: list[Any], last: str, **named: Any) -> Any:
    told: list[Any] = []
    ended: list[str | None] = []
    over = threading.Event()

    def on_event(event: Any) -> None:
        told.append((event.type, event.name, event.path))
        if event.name == last:
            over.set()

    def on_exit(error: Exception | None) -> None:
        ended.append(None if error is None else str(error))
        over.set()

    named |= {"on_event": on_event, "on_exit": on_exit}

    async def run() -> None:
        async with await machine.files.watch_dir(path, **named):
            for method, *arguments in steps:
                await getattr(machine.files, method)(*arguments)
            while not over.is_set():
                await asyncio.sleep(0.01)

    if style == "async":
        _runner.run(run())
    else:
        with machine.files.watch_dir(path, **named):
            for method, *arguments in steps:
                getattr(machine.files, method)(*arguments)
            over.wait()
    return {"result": {"told": told, "ended": ended}, "progress": []}


def call(
    style: str, url: str, token: str, retries: int, machine: str, method: str, positional: list[Any], named: Any
) -> Any:
    if method.startswith("class."):
        return of_class(style, url, token, retries, method.removeprefix("class."), named)
    return call_one(connect(style, url, token, retries, machine), style, method, positional, named)


def call_one(machine: Any, style: str, method: str, positional: list[Any], named: Any) -> Any:
    if method == "watch":
        return watch(machine, style, *positional, **named)
    target, _, name = method.partition(".")
    progress: list[Any] = []
    arguments = [value(given, style) for given in positional]
    named = {key: value(given, style) for key, given in named.items()}
    if target == "client":
        arguments.insert(0, machine.id)
    if method in UPLOADS:
        named["progress"] = lambda seen: progress.append((seen.phase, seen.bytes_completed, seen.parts_completed))
    for stream in {"on_stdout", "on_stderr", "on_data"} & set(named):
        named[stream] = lambda text, stream=stream: progress.append((stream[3:], text))

    async def run() -> Any:
        if method == "handle":
            return [piece async for piece in _handles[-1]]
        return await found(*arguments, **named)

    if target == "handle":
        found = getattr(_handles[-1], name, None) if name else lambda: list(_handles[-1])
    else:
        owners = {"client": machine._client, "machine": machine}
        found = getattr(owners[target] if target in owners else getattr(machine, target), name)
    result = _runner.run(run()) if style == "async" else found(*arguments, **named)
    if hasattr(result, "wait") and hasattr(result, "pid"):
        _handles.append(result)
        result = {"pid": result.pid, "session_id": getattr(result, "session_id", None)}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = dataclasses.asdict(result)
    if isinstance(result, list):
        result = [dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one for one in result]
    return {"result": result, "progress": progress}


def failure(error: BaseException) -> dict[str, Any]:
    facts = ("code", "reason", "upload_id", "part_number", "path", "retryable", "details", "request_id")
    said = {name: getattr(error, name, None) for name in facts}
    return {"error": {"kind": type(error).__name__, "message": str(error), **said}}


def plain(found: object) -> str:
    return found.decode("latin-1") if isinstance(found, bytes) else str(found)


async def close() -> None:
    for (style, *_), machine in _machines.items():
        closing = machine.close()
        if style == "async":
            await closing


def main() -> None:
    print(json.dumps({"version": nullspace.__version__}), flush=True)
    for line in sys.stdin:
        try:
            answer = call(**json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever the caller would see is the answer
            answer = failure(error)
        print(json.dumps(answer, default=plain), flush=True)
    _runner.run(close())
    _runner.close()


if __name__ == "__main__":
    main()
