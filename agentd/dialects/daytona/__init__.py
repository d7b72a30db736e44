"""Daytona's toolbox API, as its published clients speak it. Names and shapes only; what they mean is decided in the
rooms. One module for each topic, as in the native API."""

from collections.abc import Mapping
from typing import Protocol

from agentd.dialects.daytona.entrypoint import EntrypointRows
from agentd.dialects.daytona.files import FileRows
from agentd.dialects.daytona.git import GitRows
from agentd.dialects.daytona.interpreter import InterpreterRows
from agentd.dialects.daytona.machine import MachineRows
from agentd.dialects.daytona.processes import ProcessRows
from agentd.dialects.daytona.sessions import SessionRows
from agentd.dialects.daytona.terminals import TerminalRows
from agentd.dialects.daytona.transfers import TransferRows
from agentd.dialects.daytona.wire import ErrorBody, close, tell
from agentd.errors import SandboxNotFound
from agentd.files.changes import Changes
from agentd.files.editing import Editing
from agentd.files.listing import Listing
from agentd.files.moving import Moving
from agentd.files.operations import Files
from agentd.files.search import Search
from agentd.files.writing import Writing
from agentd.http.endpoint import Dialect
from agentd.linux.meter import Meter
from agentd.linux.places import Places
from agentd.processes.contexts import Contexts
from agentd.processes.git import Git
from agentd.processes.pty import Terminals
from agentd.processes.registry import Processes
from agentd.processes.sessions import Sessions

MOUNTS = ("/daytona", "/daytona/toolbox/{sandbox_id}")


class Owners(Protocol):
    """Those who own the state behind the rows."""

    places: Places
    files: Files
    writing: Writing
    changes: Changes
    editing: Editing
    moving: Moving
    listing: Listing
    search: Search
    processes: Processes
    sessions: Sessions
    contexts: Contexts
    terminals: Terminals
    git: Git
    meter: Meter


def daytona(rooms: Owners, sandbox_id: str | None) -> Dialect:
    """sandbox_id: the name that is answered to, None for any."""
    places = rooms.places
    topics = (
        FileRows(rooms.files, rooms.changes, rooms.moving, rooms.editing, rooms.listing, rooms.search, places),
        TransferRows(rooms.files, rooms.writing, places),
        ProcessRows(rooms.processes),
        SessionRows(rooms.sessions),
        EntrypointRows(rooms.processes),
        InterpreterRows(rooms.contexts),
        TerminalRows(rooms.terminals),
        GitRows(rooms.git),
        MachineRows(rooms.processes, rooms.meter, places),
    )

    def admit(values: Mapping[str, str]) -> None:
        if sandbox_id is not None and values.get("sandbox_id", sandbox_id) != sandbox_id:
            raise SandboxNotFound(f"this is not {values['sandbox_id']!r}: the request reached the wrong daemon")

    rows = tuple(row for topic in topics for row in topic.endpoints())
    return Dialect(
        "daytona", MOUNTS, rows, admit=admit, close=close, tell=tell, errors=(SandboxNotFound,), failure=ErrorBody
    )
