"""The published ``daytona`` SDK in a process of its own, sync and async, which needs nothing of this project.

A line of JSON comes in for every call and one goes out. In: ``style``, ``url`` (of the API), ``token``, ``call`` (such
as ``client.create`` or ``NAME.fs.list_files``, where NAME was kept), ``positional``, ``named``, ``keep`` (the name that
the result is kept under). A value of the SDK's own is ``{"make": CLASS, "values": {...}}``, a kept one
``{"kept": NAME}``, bytes are ``{"latin1": TEXT}``. ``pty`` and ``follow`` are calls of this driver: they need somebody
who listens.
Out: ``result``, or ``error``: the class that the caller would have caught, its status and its text.
The first line that goes out has the SDK's ``version``.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, is_dataclass
from enum import Enum
from importlib.metadata import version
from typing import Any

import daytona
from daytona.common.pty import PtySize
from pydantic import BaseModel

CLASSES = {name: getattr(daytona, name) for name in daytona.__all__}

kept: dict[str, Any] = {}
loop = asyncio.new_event_loop()


def client(style: str, url: str, token: str) -> Any:
    name = f"client {style} {url}"
    if name not in kept:
        config = daytona.DaytonaConfig(api_key=token, api_url=url, target="local")
        kept[name] = daytona.Daytona(config) if style == "sync" else loop.run_until_complete(opened(config))
    return kept[name]


async def opened(config: Any) -> Any:
    return daytona.AsyncDaytona(config)


def value(given: Any) -> Any:
    match given:
        case {"make": name, "values": values}:
            return CLASSES[name](**{key: value(one) for key, one in values.items()})
        case {"kept": name}:
            return kept[name]
        case {"latin1": text}:
            return text.encode("latin-1")
        case list():
            return [value(one) for one in given]
        case dict():
            return {key: value(one) for key, one in given.items()}
    return given


def plain(found: Any) -> Any:
    if isinstance(found, BaseModel):
        return plain(found.model_dump())
    if isinstance(found, Enum):
        return found.value
    if is_dataclass(found) and not isinstance(found, type):
        return plain(asdict(found))
    if isinstance(found, bytes | bytearray):
        return bytes(found).decode("latin-1")
    if isinstance(found, dict):
        return {str(key): plain(one) for key, one in found.items()}
    if isinstance(found, list | tuple):
        return [plain(one) for one in found]
    if found is None or isinstance(found, str | int | float):
        return found
    return plain(vars(found)) if hasattr(found, "__dict__") else str(found)


async def collected(found: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in found]


def finished(found: Any) -> Any:
    """What a call gives, once it has given all."""
    if inspect.isawaitable(found):
        found = loop.run_until_complete(found)  # type: ignore[arg-type]
    if isinstance(found, AsyncIterator):
        found = loop.run_until_complete(collected(found))
    if isinstance(found, Iterator):
        found = list(found)
    if isinstance(found, list) and found and all(isinstance(one, bytes) for one in found):
        return b"".join(found)
    return found


def pty(process: Any, ident: str, typed: str) -> dict[str, Any]:
    """Opens a terminal of 100 columns, types, and waits for its end."""
    shown: list[bytes] = []
    size = PtySize(rows=30, cols=100)

    async def asynchronous() -> int | None:
        handle = await process.create_pty_session(id=ident, on_data=shown.append, pty_size=size)
        await handle.wait_for_connection()
        await handle.send_input(typed)
        await handle.wait()
        return int(handle.exit_code)

    if inspect.iscoroutinefunction(inspect.unwrap(type(process).create_pty_session)):
        code = loop.run_until_complete(asynchronous())
    else:
        handle = process.create_pty_session(id=ident, pty_size=size)
        handle.wait_for_connection()
        handle.send_input(typed)
        shown += list(handle)
        code = handle.exit_code
    return {"shown": b"".join(shown), "exit_code": code}


def follow(process: Any, session: str, command: str) -> dict[str, str]:
    """What a command of a session writes, until its end."""
    out: list[str] = []
    err: list[str] = []
    loop.run_until_complete(process.get_session_command_logs_async(session, command, out.append, err.append))
    return {"stdout": "".join(out), "stderr": "".join(err)}


def call(request: dict[str, Any]) -> Any:
    name, *path = request["call"].split(".")
    positional, named = value(request["positional"]), value(request["named"])
    if name in ("pty", "follow"):
        return {"pty": pty, "follow": follow}[name](*positional)
    found = client(request["style"], request["url"], request["token"]) if name == "client" else kept[name]
    for part in path:
        found = getattr(found, part)
    result = finished(found(*positional, **named))
    if request["keep"]:
        kept[request["keep"]] = result
        kept[f"{request['keep']} process"] = result.process
    return result


def main() -> None:
    print(json.dumps({"version": version("daytona")}), flush=True)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"result": plain(call(json.loads(line)))}
        except Exception as error:  # noqa: BLE001 - whatever the caller would see is the answer
            status = getattr(error, "status_code", None)
            answer = {"error": {"kind": type(error).__name__, "status": status, "text": str(error)}}
        print(json.dumps(answer), flush=True)
    for name, one in kept.items():
        if name.startswith("client async"):
            loop.run_until_complete(one.close())


if __name__ == "__main__":
    main()
