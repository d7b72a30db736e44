"""What the daemon tells about itself: version, numbers, what it can do here, and the description of its API."""

import platform
from collections.abc import Mapping, Sequence

import msgspec

from agentd import __version__
from agentd.errors import NotFound
from agentd.http.endpoint import Call, Dialect, Endpoint, TextResult
from agentd.http.openapi import document
from agentd.http.pages import Pages
from agentd.telemetry import CONTENT_TYPE, Metrics


class Version(msgspec.Struct, frozen=True):
    """The daemon's and its interpreter's version."""

    version: str
    python: str


class Capabilities(msgspec.Struct, frozen=True):
    """kernel: its release. filesystem: the type of the workspace's. features: kernel features by name, found by trying.
    durability: what an accepted part survives, ``process`` or ``power``, as it is really given here. other_users:
    whether calls may name another user than the daemon's own."""

    kernel: str
    filesystem: str
    features: dict[str, bool]
    durability: str
    other_users: bool


class DialectParams(msgspec.Struct):
    dialect: str


def about(
    dialects: Sequence[Dialect],
    metrics: Metrics,
    capabilities: Mapping[str, object],
    *,
    console: bool = True,
    more: Sequence[Endpoint] = (),
) -> Dialect:
    """The daemon's own endpoints; ``capabilities`` are sent as they are at the time of the call. console: with the
    pages for people. more: rows beside these."""

    async def version(_: Call) -> Version:
        return Version(__version__, platform.python_version())

    async def numbers(_: Call) -> TextResult:
        return TextResult(metrics.render(), CONTENT_TYPE)

    async def capable(_: Call) -> Mapping[str, object]:
        return capabilities

    async def openapi(call: Call) -> Mapping[str, object]:
        return document([own, *dialects], call.public_url())

    async def openapi_of(call: Call) -> Mapping[str, object]:
        wanted = call.params.dialect
        found = [dialect for dialect in dialects if dialect.name == wanted]
        if not found:
            raise NotFound(f"there is no dialect {wanted!r} here")
        return document(found, call.public_url())

    json = ("application/json",)
    rows = (
        Endpoint("GET", "/version", "version", version, result=Version, summary="The daemon's version"),
        Endpoint(
            "GET",
            "/metrics",
            "metrics",
            numbers,
            sends=("text/plain",),
            summary="Numbers in the Prometheus text format",
        ),
        Endpoint("GET", "/v1/capabilities", "capabilities", capable, result=Capabilities, summary="What works here"),
        Endpoint("GET", "/openapi.json", "openapi", openapi, sends=json, summary="This API as OpenAPI 3.1"),
        Endpoint(
            *("GET", "/{dialect}/openapi.json", "openapi.dialect", openapi_of),
            params=DialectParams,
            sends=json,
            summary="One dialect of it alone",
            errors=(NotFound,),
        ),
    )
    own = Dialect("agentd", ("",), (*rows, *more, *(Pages().endpoints() if console else ())))
    return own
