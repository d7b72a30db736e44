"""The native API: the NullSpace wire contract. Names and shapes only; what they mean is decided in the rooms.

One module for each topic, with a class whose ``endpoints()`` are its rows; `wire` holds what they share.
"""

from collections.abc import Iterable, Mapping

from agentd import errors
from agentd.dialects.nullspace.wire import ErrorBody, render
from agentd.http.endpoint import Dialect, Endpoint

MOUNTS = ("/v1/machines/{machine_id}", "/v1/sandboxes/{sandbox_id}", "/v1")


def nullspace(rows: Iterable[Endpoint], sandbox_id: str | None) -> Dialect:
    """sandbox_id: the name that is answered to, None for any."""

    def admit(values: Mapping[str, str]) -> None:
        for name, error in (("machine_id", errors.MachineNotFound), ("sandbox_id", errors.SandboxNotFound)):
            if sandbox_id is not None and values.get(name, sandbox_id) != sandbox_id:
                raise error(f"this is not {values[name]!r}: the request reached the wrong daemon")

    strangers = (errors.MachineNotFound, errors.SandboxNotFound)
    return Dialect("nullspace", MOUNTS, tuple(rows), render, admit, errors=strangers, failure=ErrorBody)
