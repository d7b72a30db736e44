"""The machine itself: its version, directories, ports and load, and the variables of what is started in it."""

from typing import Annotated

from msgspec import Meta, Struct

from agentd import __version__, errors
from agentd.dialects.values import rfc3339
from agentd.errors import InvalidRequest
from agentd.http.endpoint import Call, Endpoint
from agentd.linux.meter import Meter
from agentd.linux.places import Places
from agentd.linux.ports import listening
from agentd.linux.threads import in_thread
from agentd.processes.registry import Processes

PORTS = range(3000, 10_000)


class Version(Struct):
    version: str


class Directory(Struct):
    dir: str


class PortList(Struct):
    ports: list[int]


class PortParams(Struct):
    port: str


class PortUse(Struct, rename="camel"):
    is_in_use: bool


class EnvironmentBody(Struct, rename="camel"):
    """unset_value_prefix: variables whose value begins so go, too, unless they are in ``set``."""

    set: dict[str, str] | None = None
    unset: list[str] | None = None
    unset_value_prefix: Annotated[str, Meta(max_length=65536)] | None = None


class Changed(Struct):
    message: str


class Load(Struct, rename="camel"):
    """Memory and disk in bytes."""

    timestamp: str
    timestamp_unix: int
    cpu_count: int
    cpu_used_pct: float
    mem_used: int
    mem_total: int
    disk_used: int
    disk_total: int
    disk_free: int


class MachineRows:
    def __init__(self, processes: Processes, meter: Meter, places: Places) -> None:
        self._processes = processes
        self._meter = meter
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/version", "version", self.version, result=Version, summary="The daemon's version"),
            *(
                Endpoint("GET", f"/{name}", name, act, result=Directory, summary=summary)
                for name, act, summary in (
                    ("work-dir", self.work_directory, "Where relative paths begin"),
                    ("project-dir", self.work_directory, "As work-dir, for old clients"),
                    ("user-home-dir", self.home, "The home of the user that everything runs as"),
                )
            ),
            Endpoint(
                *("GET", "/port", "ports", self.ports),
                result=PortList,
                summary="The TCP ports from 3000 to 9999 that somebody listens on",
            ),
            Endpoint(
                *("GET", "/port/{port}/in-use", "ports.in_use", self.port_in_use),
                params=PortParams,
                result=PortUse,
                summary="Whether somebody listens on a TCP port",
                errors=(InvalidRequest,),
            ),
            Endpoint(
                *("POST", "/env", "env", self.change_variables),
                body=EnvironmentBody,
                result=Changed,
                summary="Change the variables of what is started from now on",
                errors=(errors.InvalidRequest,),
            ),
            Endpoint(
                *("GET", "/system/metrics", "metrics", self.load),
                result=Load,
                summary="Processor, memory and disk in use",
            ),
        )

    async def version(self, call: Call) -> Version:
        return Version(__version__)

    async def work_directory(self, call: Call) -> Directory:
        return Directory((await in_thread(self._places.find, ".")).path)

    async def home(self, call: Call) -> Directory:
        return Directory((await in_thread(self._places.find, "/")).owner.home)

    async def ports(self, call: Call) -> PortList:
        return PortList([port for port in await in_thread(listening) if port in PORTS])

    async def port_in_use(self, call: Call) -> PortUse:
        text: str = call.params.port
        port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
        if port not in PORTS:
            raise InvalidRequest(f"{text[:20]!r} is no port from {PORTS.start} to {PORTS.stop - 1}", field="port")
        return PortUse(port in await in_thread(listening))

    async def change_variables(self, call: Call) -> Changed:
        body: EnvironmentBody = call.data
        self._processes.change_variables(body.set or {}, body.unset or [], body.unset_value_prefix or "")
        return Changed("Environment updated")

    async def load(self, call: Call) -> Load:
        found = await in_thread(self._meter.sample)
        return Load(
            timestamp=rfc3339(found.time),
            timestamp_unix=int(found.time),
            cpu_count=found.cpu_count,
            cpu_used_pct=found.cpu_percent,
            mem_used=found.memory_used,
            mem_total=found.memory_total,
            disk_used=found.disk_used,
            disk_total=found.disk_total,
            disk_free=found.disk_total - found.disk_used,
        )
