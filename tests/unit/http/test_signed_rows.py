"""Rows that take a signed URL in place of a token, at the door."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from msgspec import Struct

from agentd.http.endpoint import Call, Endpoint
from agentd.http.signing import Grant
from tests.unit.http.conftest import Door, OpenDoor

BEARER = "Authorization: Bearer secret"
NEVER = 1e11


class Params(Struct):
    path: str = ""
    user: str | None = None


async def show(call: Call) -> object:
    return None if call.grant is None else [call.grant.path, call.grant.user, call.grant.max_bytes]


async def link(call: Call) -> object:
    token = call.sign(Grant(("GET",), call.params.path, "u", NEVER, 7))
    return {"url": f"{call.public_url()}/file?path={quote(call.params.path)}&file_token={token}"}


ROWS = (
    Endpoint("GET", "/file", "file", show, params=Params, signed=True),
    Endpoint("PUT", "/file", "put", show, params=Params, signed=True),
    Endpoint("GET", "/other", "other", show, params=Params),
    Endpoint("GET", "/link", "link", link, params=Params),
)


async def signed(open_door: OpenDoor) -> tuple[Door, str]:
    """A door, and the path and query of a URL that it has signed for ``/a b``."""
    door = await open_door(*ROWS, tokens=(b"secret",))
    _, _, body = await door.ask("GET /link?path=/a%20b", b"", BEARER)
    origin, _, rest = body.decode().removeprefix('{"url":"').removesuffix('"}').partition("/file")
    assert origin == "http://x"
    return door, f"/file{rest}"


async def test_a_signed_url_does_in_place_of_a_token_and_is_never_logged(
    open_door: OpenDoor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    door, url = await signed(open_door)
    assert (await door.ask(f"GET {url}"))[::2] == (200, b'["/a b","u",7]')
    assert (await door.ask(f"GET {url}&user=u"))[0] == 200
    assert (await door.ask("GET /file?path=/a", b"", BEARER))[::2] == (200, b"")
    assert "v1_" not in caplog.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda url: url.replace("a%20b", "a"), 403),
        (lambda url: f"{url}&path=/b", 403),
        (lambda url: f"{url}&user=root", 403),
        (lambda url: f"{url}x", 401),
        (lambda url: f"{url}&file_token=x", 403),
        (lambda url: url.replace("/file", "/other"), 401),
        (lambda url: "/file?path=/a%20b&file_token=", 401),
        (lambda url: "/file?path=/a%20b&xfile_token=x", 401),
    ],
)
async def test_a_signed_url_opens_nothing_else(open_door: OpenDoor, change: Callable[[str], str], status: int) -> None:
    door, url = await signed(open_door)
    assert (await door.ask(f"GET {change(url)}"))[0] == status


async def test_another_method_needs_another_url(open_door: OpenDoor) -> None:
    door, url = await signed(open_door)
    status, _, body = await door.ask(f"PUT {url}")
    assert (status, b"for GET, not for PUT" in body) == (403, True)


async def test_guessing_is_braked_like_that_of_tokens(open_door: OpenDoor) -> None:
    door, url = await signed(open_door)
    answers = [(await door.ask("GET /file?file_token=guess"))[0] for _ in range(3)]
    assert answers[0] == 401
    assert answers[-1] == 429
    assert (await door.ask(f"GET {url}"))[0] == 200


async def test_a_signed_url_without_a_token_anywhere_still_grants(open_door: OpenDoor) -> None:
    door = await open_door(*ROWS)
    _, _, body = await door.ask("GET /link?path=/a")
    url = body.decode().removeprefix('{"url":"http://x').removesuffix('"}')
    assert (await door.ask(f"GET {url}"))[::2] == (200, b'["/a","u",7]')
