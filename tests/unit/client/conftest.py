import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentd.client import Client

PART = 1000


class ScriptedDaemon:
    """Speaks the wire contract over real HTTP and misbehaves as told: what a healthy daemon never does on request."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: list[str] = []  # one for each of the next part requests
        self.parts: dict[int, bytes] = {}
        self.travelled: list[int] = []
        self.digests: list[str] = []
        self.status_calls = self.length = 0
        self.aborted = False
        self.refusal: web.Response | None = None

    def session(self) -> dict[str, object]:
        count = -(-self.length // PART)
        missing = [number for number in range(count) if number not in self.parts]
        words = {"upload_id": "up_1", "kind": "file", "status": "uploading", "target_path": "/workspace/f"}
        sizes = {"content_length": self.length, "accepted_bytes": sum(map(len, self.parts.values()))}
        layout = {"part_size": PART, "part_count": count, "max_concurrency": 2, "expires_at": "2030-01-01T00:00:00Z"}
        return words | sizes | layout | {"next_part": missing[0] if missing else None}

    async def create(self, request: web.Request) -> web.Response:
        if self.refusal:
            return self.refusal
        self.length = (await request.json())["content_length"]
        return web.json_response({"session": self.session()})

    async def status(self, request: web.Request) -> web.Response:
        self.status_calls += 1
        return web.json_response(self.session())

    async def asked_first(self, request: web.Request) -> web.StreamResponse | None:
        if int(request.match_info["n"]) in self.parts:
            return web.json_response(self.session())
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    async def part(self, request: web.Request) -> web.Response:
        number, fault = int(request.match_info["n"]), self.faults.pop(0) if self.faults else ""
        if fault == "busy":
            return web.json_response(
                {"error": "later", "code": "unavailable"}, status=503, headers={"Retry-After": "0"}
            )
        body = b"" if fault == "cut" else await request.read()
        if fault != "cut":
            self.travelled.append(number)
            assert hashlib.sha256(body).hexdigest() == request.headers["x-nullspace-part-sha256"]
            self.parts[number] = body
        if fault and request.transport:
            request.transport.abort()
        return web.json_response(self.session())

    async def complete(self, request: web.Request) -> web.Response:
        self.digests.append((await request.json())["whole_checksum_sha256"])
        return web.json_response({"session": self.session(), "published_bytes": 1, "published_file_count": 1})

    async def abort(self, request: web.Request) -> web.Response:
        self.aborted = True
        return web.Response(status=204)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedDaemon]:
    scripted = ScriptedDaemon()
    app = web.Application()
    app.router.add_post("/v1/uploads", scripted.create)
    app.router.add_get("/v1/uploads/up_1", scripted.status)
    app.router.add_delete("/v1/uploads/up_1", scripted.abort)
    app.router.add_put("/v1/uploads/up_1/parts/{n}", scripted.part, expect_handler=scripted.asked_first)
    app.router.add_post("/v1/uploads/up_1/complete", scripted.complete)
    async with TestServer(app) as server:
        scripted.url = str(server.make_url("")).rstrip("/")
        yield scripted


@pytest.fixture
async def client(scripted: ScriptedDaemon) -> AsyncIterator[Client]:
    async with Client(scripted.url) as client:
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five parts, the last one short."""
    path = tmp_path / "source.bin"
    path.write_bytes(b"".join(bytes([number]) * PART for number in range(4)) + b"end")
    return path
