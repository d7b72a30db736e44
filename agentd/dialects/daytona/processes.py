"""Commands and programs that are run to their end."""

from contextlib import aclosing
from typing import Annotated

from msgspec import Meta, Struct

from agentd import errors
from agentd.core.eventlog import Gap
from agentd.dialects.failures import START_ERRORS
from agentd.dialects.telling import tell, timed_out
from agentd.dialects.values import idempotency_key
from agentd.errors import ExecFailed, NotADirectory, NotFound, PermissionDenied
from agentd.http.endpoint import Call, Endpoint
from agentd.processes import scripts
from agentd.processes.process import Process
from agentd.processes.registry import Processes
from agentd.processes.scripts import Script
from agentd.processes.terms import Order

Seconds = Annotated[float, Meta(ge=0, description="0 or null for no limit")]

NEVER_STARTED = -1  # an exit code


class ExecuteBody(Struct):
    command: str
    cwd: str | None = None
    timeout: Seconds | None = None
    envs: dict[str, str] | None = None


class CodeBody(Struct):
    """language: python, javascript or typescript. argv: what the code finds behind its own name."""

    code: str
    language: str = "python"
    argv: list[str] | None = None
    envs: dict[str, str] | None = None
    timeout: Seconds | None = None


class Executed(Struct, rename="camel"):
    """result: both streams as they came, in text. truncated: there is more than one answer takes. signal: that ended
    it."""

    exit_code: int
    result: str
    truncated: bool = False
    signal: str | None = None


class Artifacts(Struct):
    charts: list[str]


class CodeRan(Executed, rename="camel", kw_only=True):
    artifacts: Artifacts


class ProcessRows:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/process/execute", "process.execute", self.execute),
                body=ExecuteBody,
                result=Executed,
                summary="Run a line for the shell to its end; one that cannot be started has the exit code -1",
                errors=(errors.InvalidRequest, errors.ExecTimeout, errors.KeyReused, errors.CapacityExceeded),
            ),
            Endpoint(
                *("POST", "/process/code-run", "process.code_run", self.run_code),
                body=CodeBody,
                result=CodeRan,
                summary="Run code in a new interpreter to its end",
                errors=(*START_ERRORS, errors.ExecTimeout, errors.NotSupported),
            ),
        )

    async def execute(self, call: Call) -> Executed:
        body: ExecuteBody = call.data
        order = Order(
            (self._processes.shell, "-c", body.command),
            command=body.command,
            cwd=body.cwd or None,
            env=body.envs or {},
            timeout=body.timeout or None,
        )
        try:
            process = await self._processes.start(order, key=idempotency_key(call))
        except (ExecFailed, NotFound, NotADirectory, PermissionDenied) as error:
            return Executed(NEVER_STARTED, error.detail)
        return await self._ended(process)

    async def run_code(self, call: Call) -> CodeRan:
        body: CodeBody = call.data
        script = Script(body.language, body.code, tuple(body.argv or ()), body.envs or {}, body.timeout or None)
        ran = await self._ended(await scripts.start(self._processes, script))
        return CodeRan(ran.exit_code, ran.result, ran.truncated, ran.signal, artifacts=Artifacts([]))

    async def _ended(self, process: Process) -> Executed:
        """ExecTimeout, with what it wrote until then."""
        ending = await process.wait()
        assert ending is not None
        limit = self._processes.limits.answer_bytes
        if ending.reason == "timed_out":
            raise await timed_out(process, ending, limit)
        text, truncated = await both(process, limit)
        return Executed(ending.code, text, truncated, ending.signal_name)


async def both(process: Process, limit: int) -> tuple[str, bool]:
    """The beginning of both streams as they came, in text, and whether there is more than ``limit`` bytes of it."""
    pieces: list[str] = []
    size = 0
    async with aclosing(tell(process, 0, mend=True)) as telling:
        async for piece in telling:
            if isinstance(piece, Gap) or size > limit:
                return "".join(pieces), True
            pieces.append(piece.text)
            size = piece.next
    return "".join(pieces), False
