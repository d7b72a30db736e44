"""Calls the published client that this interpreter finds, so that one test can drive any version of it.

One JSON object a line. First out: ``version``. Then in: ``style`` (sync, async), ``url``, ``token``, ``retries``,
``method`` ("files.NAME", or "client.NAME" for the low-level client, which is given the machine's id first),
``positional``, ``named``; and out: ``result`` and ``progress`` (phase, bytes, parts), or ``error``: what the caller of
the client would have caught.

A local path may be given as ``{"read": PATH, "offset": N, "length": N}`` (its bytes), ``{"open": PATH}`` (a file
object) or ``{"stream": PATH}`` (a generator, which cannot seek).
"""

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nullspace
import nullspace.client
import nullspace.types

OLD = not hasattr(nullspace, "Machine")  # 0.1.x says "sandbox" where 1.0.x says "machine"
NOUN, IDENT = ("Sandbox", "sb_local") if OLD else ("Machine", "mch_local")
CHUNK = 100_000
UPLOADS = ("files.upload_file", "files.upload_dir", "files.resume_upload")

_runner = asyncio.Runner()
_machines: dict[tuple[Any, ...], Any] = {}


def connect(style: str, url: str, token: str, retries: int) -> Any:
    """A machine that is reached without a control plane; kept for the next call."""
    key = style, url, token, retries
    if key not in _machines:
        prefix = "Async" if style == "async" else ""
        config = getattr(nullspace.types, NOUN + "Config")()
        about = getattr(nullspace.types, NOUN + "Info")(id=IDENT, status="running", config=config, template="base")
        client = getattr(nullspace.client, prefix + "NullspaceClient")(token, url, upload_max_retries=retries)
        _machines[key] = getattr(nullspace, prefix + NOUN)(about, client)
    return _machines[key]


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
        case {"open": path}:
            return open(path, "rb")
        case {"read": path, "offset": offset, "length": length}:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(length)
    return given


def call(style: str, url: str, token: str, retries: int, method: str, positional: list[Any], named: Any) -> Any:
    machine = connect(style, url, token, retries)
    target, _, name = method.partition(".")
    progress: list[Any] = []
    arguments = [value(given, style) for given in positional]
    if target == "client":
        arguments.insert(0, IDENT)
    if method in UPLOADS:
        named["progress"] = lambda seen: progress.append((seen.phase, seen.bytes_completed, seen.parts_completed))
    found = getattr(machine._client if target == "client" else machine.files, name)

    async def run() -> Any:
        return await found(*arguments, **named)

    result = _runner.run(run()) if style == "async" else found(*arguments, **named)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = dataclasses.asdict(result)
    return {"result": result, "progress": progress}


def failure(error: BaseException) -> dict[str, Any]:
    facts = ("code", "reason", "upload_id", "part_number", "path", "retryable", "details", "request_id")
    said = {name: getattr(error, name, None) for name in facts}
    return {"error": {"kind": type(error).__name__, "message": str(error), **said}}


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
        print(json.dumps(answer, default=str), flush=True)
    _runner.run(close())
    _runner.close()


if __name__ == "__main__":
    main()
