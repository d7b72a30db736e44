"""Duvo's sandboxes in stand-alone mode: they are created, and end by themselves; nothing else is in that API."""

from msgspec import Struct

from agentd import errors
from agentd.dialects.values import REPEATS, rfc3339
from agentd.http.endpoint import Call, Endpoint
from agentd.http.repeats import KEY, Repeats
from agentd.processes.handle import Lease, NewHandle
from agentd.processes.handles import Handles


class Created(Struct, forbid_unknown_fields=True):
    sandbox_id: str
    expires_at: str


class SandboxRows:
    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._repeats = Repeats()

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/v1/sandboxes", "sandboxes.create", self.create),
                result=Created,
                status=201,
                takes=(),
                mounts=("/duvo",),
                headers=REPEATS,
                summary="Create a sandbox: a name for this machine, which ends after `handles.lifetime`",
                errors=(errors.CapacityExceeded, errors.KeyReused),
            ),
        )

    async def create(self, call: Call) -> Created:
        """Repeated with its key, it is the same sandbox."""

        async def make() -> Created:
            new = NewHandle(prefix="sb_", lease=Lease(lifetime=self._handles.limits.lifetime))
            handle = await self._handles.create(new)
            return Created(handle.id, rfc3339(handle.expires or 0))

        return await self._handles.carry_out(self._repeats.once(call.headers.get(KEY), (), make))
