"""Code that is executed in contexts which keep their state: section 3.5 of the wire contract."""

import codecs
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

from msgspec import Meta, Struct

from agentd import errors
from agentd.core.eventlog import Stream
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.values import user_name
from agentd.errors import NotSupported
from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.http.events import NDJSON, SSE, Event, stream
from agentd.processes.context import Begun, Code, Context
from agentd.processes.contexts import Contexts
from agentd.processes.packets import Printed

_START_ERRORS = (errors.NotSupported, errors.CapacityExceeded, errors.ExecFailed, errors.Unavailable, *PATH_ERRORS)

# What the contract has, and calls optional.
_ABSENT = (
    ("POST", "/code/runs", "code.runs.create"),
    ("GET", "/code/runs", "code.runs.list"),
    ("GET", "/code/runs/{run_id}", "code.runs.get"),
    ("POST", "/code/runs/{run_id}/cancel", "code.runs.cancel"),
    ("GET", "/code/artifacts", "code.artifacts.list"),
    ("GET", "/code/artifacts/{artifact_id}", "code.artifacts.get"),
    ("DELETE", "/code/artifacts/{artifact_id}", "code.artifacts.delete"),
    ("GET", "/code/artifacts/{artifact_id}/download", "code.artifacts.download"),
    ("GET", "/code/artifacts/{artifact_id}/preview", "code.artifacts.preview"),
)


class ExecuteBody(Struct):
    code: str
    language: str | None = None
    context_id: str | None = None
    envs: dict[str, str] | None = None
    timeout: Annotated[float, Meta(gt=0, le=604_800, description="seconds")] | None = None
    user: str | None = None


class ContextBody(Struct):
    cwd: str | None = None
    language: str | None = None
    user: str | None = None


class ContextParams(Struct):
    context_id: str


class ContextReply(Struct):
    id: str
    language: str
    cwd: str


class Acted(Struct):
    status: str


class CodeRows:
    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    def endpoints(self) -> tuple[Endpoint, ...]:
        known = (errors.ContextNotFound,)
        return (
            Endpoint(
                *("POST", "/code/execute", "code.execute", self.execute),
                body=ExecuteBody,
                sends=(SSE, NDJSON),
                summary="Execute code in a context; what happens, as it happens, as server-sent events or NDJSON",
                errors=(*known, *_START_ERRORS),
            ),
            Endpoint(
                *("POST", "/code/contexts", "code.contexts.create", self.create),
                body=ContextBody,
                result=ContextReply,
                summary="Start an interpreter that keeps its state",
                errors=_START_ERRORS,
                status=201,
            ),
            Endpoint(
                *("GET", "/code/contexts", "code.contexts.list", self.list),
                result=list[ContextReply],
                summary="List the contexts, the default ones among them",
            ),
            Endpoint(
                *("DELETE", "/code/contexts/{context_id}", "code.contexts.delete", self.delete),
                params=ContextParams,
                status=204,
                summary="End a context and what it runs",
                errors=known,
            ),
            Endpoint(
                *("POST", "/code/contexts/{context_id}/restart", "code.contexts.restart", self.restart),
                params=ContextParams,
                result=Acted,
                takes=(),
                summary="Give a context a new interpreter",
                errors=(*known, *_START_ERRORS),
            ),
            Endpoint(
                *("POST", "/code/contexts/{context_id}/interrupt", "code.contexts.interrupt", self.interrupt),
                params=ContextParams,
                result=Acted,
                takes=(),
                summary="Interrupt the code that runs, as ^C does",
                errors=known,
            ),
            *(
                Endpoint(
                    *(method, path, name, self.absent),
                    status=501,
                    takes=(),
                    summary="Not offered: execute the code instead" if "runs" in path else "Not offered: write a file",
                    errors=(NotSupported,),
                )
                for method, path, name in _ABSENT
            ),
        )

    async def execute(self, call: Call) -> StreamResult:
        body: ExecuteBody = call.data
        code = Code(body.code, body.envs or {}, body.timeout)
        if body.context_id:
            context = self._contexts.get(body.context_id)
        else:
            context = await self._contexts.default(body.language, user_name(body.user))
        await context.ready(code)
        return stream(call, _events(context, code))

    async def create(self, call: Call) -> ContextReply:
        body: ContextBody = call.data
        return _reply(await self._contexts.create(body.language, body.cwd, user_name(body.user)))

    async def list(self, call: Call) -> list[ContextReply]:
        return [_reply(context) for context in self._contexts.list()]

    async def delete(self, call: Call) -> None:
        await self._contexts.delete(call.params.context_id)

    async def restart(self, call: Call) -> Acted:
        await self._contexts.get(call.params.context_id).restart()
        return Acted("restarted")

    async def interrupt(self, call: Call) -> Acted:
        self._contexts.get(call.params.context_id).interrupt()
        return Acted("interrupted")

    async def absent(self, call: Call) -> None:
        raise NotSupported("runs and artifacts are not offered here; use code/execute, and files for what it leaves")


def _reply(context: Context) -> ContextReply:
    return ContextReply(context.id, context.language.name, context.cwd)


async def _events(context: Context, code: Code) -> AsyncGenerator[Event, None]:
    decoders = {one: codecs.getincrementaldecoder("utf-8")("replace") for one in Stream}
    async with aclosing(context.execute(code)) as happenings:
        async for happening in happenings:
            match happening:
                case Begun(number):
                    yield Event({"type": "number_of_executions", "execution_count": number})
                case Printed(source, content):
                    if text := decoders[source].decode(content):
                        yield Event(_printed(source, text))
                case _:
                    yield Event(happening)
    for source, decoder in decoders.items():
        if text := decoder.decode(b"", final=True):
            yield Event(_printed(source, text))


def _printed(source: Stream, text: str) -> Mapping[str, Any]:
    """timestamp: milliseconds since the epoch."""
    return {"type": source.value, "text": text, "timestamp": time.time_ns() // 1_000_000}
