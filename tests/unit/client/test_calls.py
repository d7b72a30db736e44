"""One request each: what comes back, and how failures read."""

import socket

import pytest
from aiohttp import web

from agentd.client import ApiError, Client, Unreachable

from .conftest import ScriptedDaemon

pytestmark = pytest.mark.timeout(20)


def unused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_refusal_is_raised_with_everything_the_daemon_said(client: Client, scripted: ScriptedDaemon) -> None:
    inner = {"reason": "target_conflict", "message": "it is there", "retryable": False, "upload_id": "up_9"}
    body = {"error": "x", "code": "file_upload_error", "error_detail": inner | {"details": {"missing": [[1, 2]]}}}
    scripted.refusal = web.json_response(body, status=409)
    with pytest.raises(ApiError, match=r"^it is there$") as caught:
        await client.create_upload("/workspace/f", 1)
    error = caught.value
    assert (error.status, error.code, error.reason) == (409, "file_upload_error", "target_conflict")
    assert (error.upload_id, error.retryable, error.details) == ("up_9", False, {"missing": [[1, 2]]})


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"error": "flat text", "code": "not_found"}', "flat text"),
        (b'{"title": "Gone", "detail": "a problem of RFC 9457"}', "a problem of RFC 9457"),
        (b"<html>a proxy</html>", "HTTP 418 I'm a Teapot"),
        (b'"text"', "HTTP 418 I'm a Teapot"),
    ],
)
async def test_an_error_of_any_shape_has_a_sentence(
    client: Client, scripted: ScriptedDaemon, body: bytes, detail: str
) -> None:
    scripted.refusal = web.Response(body=body, status=418)
    with pytest.raises(ApiError) as caught:
        await client.create_upload("/workspace/f", 1)
    assert caught.value.detail == detail


@pytest.mark.parametrize("status", [200, 302])
async def test_an_answer_that_is_not_the_daemons_is_an_error(
    client: Client, scripted: ScriptedDaemon, status: int
) -> None:
    scripted.refusal = web.Response(text="<html>sign in</html>", status=status, headers={"Location": "/"})
    with pytest.raises(ApiError):
        await client.create_upload("/workspace/f", 1)


async def test_a_daemon_that_does_not_answer_is_given_up_after_the_retries() -> None:
    async with Client(unused_url(), retries=1) as client:
        with pytest.raises(Unreachable, match=r"does not answer: \[Errno 111\]"):
            await client.upload_status("up_1")


@pytest.mark.parametrize("url", ["localhost:8811", "ftp://host", "http://", ""])
def test_a_url_that_names_no_daemon_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="neither http"):
        Client(url)
