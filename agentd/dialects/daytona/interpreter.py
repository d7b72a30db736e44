"""Python that keeps its state from one piece of code to the next: contexts by requests, code by a socket.

A socket takes one piece of code, tells what it writes and how it fails, and is closed then: 1000 at its end, 4008 where
its time was up.
"""

import asyncio
import codecs
import json
from contextlib import aclosing
from typing import Annotated, Any

from msgspec import Meta, Struct

from agentd import errors
from agentd.core.eventlog import Stream
from agentd.dialects.failures import START_ERRORS
from agentd.dialects.values import rfc3339
from agentd.errors import NotSupported
from agentd.http.codec import decode_json
from agentd.http.endpoint import Call, Endpoint
from agentd.http.socket import Socket
from agentd.processes.context import Code, Context
from agentd.processes.contexts import Contexts
from agentd.processes.packets import Failed, Printed

DEFAULT_SECONDS = 600.0
TIMED_OUT = 4008

_PYTHON = "python"


class ContextBody(Struct):
    cwd: str | None = None
    language: str | None = None


class ContextParams(Struct):
    id: str


class ContextReport(Struct, rename="camel"):
    id: str
    cwd: str
    created_at: str
    active: bool
    language: str


class ContextList(Struct):
    contexts: list[ContextReport]


class Deleted(Struct):
    message: str


class Asked(Struct, rename="camel"):
    """timeout: seconds, absent for 600, 0 for any time. contextId: absent for the context that code has that names
    none."""

    code: str
    context_id: str | None = None
    timeout: Annotated[float, Meta(ge=0, le=604_800)] | None = None
    envs: dict[str, str] | None = None


class InterpreterRows:
    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    def endpoints(self) -> tuple[Endpoint, ...]:
        context = "/process/interpreter/context"
        return (
            Endpoint(
                *("POST", context, "interpreter.create", self.create),
                body=ContextBody,
                result=ContextReport,
                summary="Start an interpreter of Python that keeps its state",
                errors=(*START_ERRORS, NotSupported),
            ),
            Endpoint(
                *("GET", context, "interpreter.list", self.all),
                result=ContextList,
                summary="List the interpreters, but for the one of code that names none",
            ),
            Endpoint(
                *("DELETE", context + "/{id}", "interpreter.delete", self.delete),
                params=ContextParams,
                result=Deleted,
                summary="End an interpreter and what it runs",
                errors=(errors.ContextNotFound,),
            ),
            Endpoint(
                *("GET", "/process/interpreter/execute", "interpreter.execute", self.execute),
                socket=True,
                summary="Execute the code of the first message, and tell what happens",
                errors=(*START_ERRORS, errors.ContextNotFound, NotSupported),
            ),
        )

    async def create(self, call: Call) -> ContextReport:
        body: ContextBody = call.data
        if (body.language or _PYTHON) != _PYTHON:
            raise NotSupported("there are interpreters of python alone; take process/code-run for other languages")
        return _report(await self._contexts.create(_PYTHON, body.cwd or None, None))

    async def all(self, call: Call) -> ContextList:
        return ContextList([_report(context) for context in self._contexts.list() if not context.is_default])

    async def delete(self, call: Call) -> Deleted:
        await self._contexts.delete(call.params.id)
        return Deleted("Context deleted")

    async def execute(self, call: Call, socket: Socket) -> None:
        message = await socket.receive()
        asked: Any = decode_json(message.encode() if isinstance(message, str) else message, Asked)
        seconds = DEFAULT_SECONDS if asked.timeout is None else asked.timeout
        code = Code(asked.code, asked.envs or {}, seconds or None)
        if asked.context_id:
            context = self._contexts.get(asked.context_id)
        else:
            context = await self._contexts.default(_PYTHON, None)
        await context.ready(code)
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(_left(socket))
            late = await _tell(socket, context, code)
            leaving.cancel()
        await socket.close(*((TIMED_OUT, "the time of the code was up") if late else ()))


async def _left(socket: Socket) -> None:
    """Raises once the client has left; then nobody waits for the code."""
    while True:
        await socket.receive()


async def _tell(socket: Socket, context: Context, code: Code) -> bool:
    """Whether its time was up."""
    decoders = {one: codecs.getincrementaldecoder("utf-8")("replace") for one in Stream}
    late = False
    async with aclosing(context.execute(code)) as happenings:
        async for happening in happenings:
            match happening:
                case Printed(source, content):
                    await _say(socket, source.value, text=decoders[source].decode(content))
                case Failed(name, value, traceback):
                    late = name == "TimeoutError" and not traceback
                    await _say(socket, "error", name=name, value=value, traceback=traceback)
    for source, decoder in decoders.items():
        await _say(socket, source.value, text=decoder.decode(b"", final=True))
    await socket.send(json.dumps({"type": "control", "text": "completed"}))
    return late


async def _say(socket: Socket, kind: str, **said: str) -> None:
    """Nothing, where there is nothing to say."""
    if any(said.values()):
        await socket.send(json.dumps({"type": kind, **said}))


def _report(context: Context) -> ContextReport:
    when = rfc3339(context.opened)
    return ContextReport(context.id, context.cwd, when, active=True, language=context.language.name)
