"""The command that the daemon was given to run beside it, which this API shows as a session of one command.

What it writes goes to the daemon's own standard streams, as it would without a daemon, and is not kept here.
"""

from agentd import errors
from agentd.dialects.daytona.sessions import CommandReport, SessionReport
from agentd.errors import NotFound, SessionNotFound
from agentd.http.endpoint import Call, Endpoint
from agentd.processes import entrypoint
from agentd.processes.process import Process
from agentd.processes.registry import Processes

NAME = "entrypoint"


class EntrypointRows:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", f"/process/session/{NAME}", "entrypoint.get", self.get),
                result=SessionReport,
                summary="Describe the command that runs beside the daemon",
                errors=(errors.SessionNotFound,),
            ),
            Endpoint(
                *("GET", f"/process/session/{NAME}/logs", "entrypoint.logs", self.logs),
                status=404,
                summary="Not kept: what that command writes goes to the daemon's standard streams",
                errors=(errors.SessionNotFound, errors.NotFound),
            ),
        )

    async def get(self, call: Call) -> SessionReport:
        process = self._found()
        report = CommandReport(NAME, process.command)
        if process.ending is not None:
            report.exit_code = process.ending.code
        return SessionReport(NAME, [report])

    async def logs(self, call: Call) -> None:
        self._found()
        raise NotFound("the command has the daemon's standard streams: read the container's or the service's log")

    def _found(self) -> Process:
        """The oldest that is called so: a later one is somebody's own."""
        found = self._processes.list(entrypoint.TAGS)
        if not found:
            raise SessionNotFound("no command runs beside this daemon; one would follow -- after agentd serve")
        return found[0]
