"""The pages for people: what they are sent with, what they may ask, and how a page opens a socket without the token."""

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

import agentd
from tests.conftest import ANSWER_SECONDS, Daemon, StartDaemon

FOLDER = Path(agentd.__file__).parent / "console"
FILES = sorted(path.name for path in FOLDER.iterdir())
OURS = [name for name in FILES if not name.startswith("xterm")]
PAGES = ["/console", "/docs"]
INLINE = re.compile(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", re.IGNORECASE)
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' blob:",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


async def handshake(daemon: Daemon, ticket: str, channel: str = "pty", **headers: str) -> int:
    """The status that a socket without a token, but with a ticket, is answered with."""
    url = f"{daemon.url}/v1/ws?channel={channel}&file_token={ticket}"
    async with asyncio.timeout(ANSWER_SECONDS), aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(url, headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status


def ticket(daemon: Daemon, channel: str = "pty") -> str:
    token: str = daemon.call("POST", "/v1/ws-ticket", {"channel": channel}).json()["token"]
    return token


@pytest.mark.parametrize("path", [*PAGES, *(f"/console/{name}" for name in FILES)])
def test_every_page_and_file_is_there_without_a_token_under_the_strict_policy(shared: Daemon, path: str) -> None:
    answer = shared.call("GET", path, token=None)
    rules = [rule.partition(" ") for rule in answer.headers["content-security-policy"].split("; ")]
    assert answer.status == 200
    assert {name: value for name, _, value in rules} == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
    assert answer.headers["content-type"].startswith(kinds.get(Path(path).suffix, "text/html"))


@pytest.mark.parametrize("path", ["/console", "/console/main.js", "/console/xterm.js"])
def test_a_file_that_the_browser_has_is_not_sent_again(shared: Daemon, path: str) -> None:
    first = shared.call("GET", path, token=None)
    again = shared.call("GET", path, headers={"If-None-Match": first.headers["etag"]}, token=None)
    other = shared.call("GET", path, headers={"If-None-Match": '"other"'}, token=None)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (other.status, other.body) == (200, first.body)
    assert "no-cache" in first.headers["cache-control"]


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "..%2fconsole.py", "%2e%2e%2fhttp%2fpages.py", "main.py", "Main.js", "main.js%00", "main.js/x"],
)
def test_nothing_but_the_files_of_the_console_is_sent(shared: Daemon, name: str) -> None:
    assert shared.call("GET", f"/console/{name}").status == 404


def test_without_the_console_its_pages_are_not_there_and_the_api_is(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--no-console")
    assert [daemon.call("GET", path).status for path in (*PAGES, "/console/main.js")] == [404, 404, 404]
    assert [daemon.call("GET", path, token=None).status for path in PAGES] == [401, 401]
    assert daemon.call("GET", "/openapi.json").status == 200


@pytest.mark.parametrize("name", FILES)
def test_no_file_refers_to_anything_outside(name: str) -> None:
    text = (FOLDER / name).read_text()
    fetched = re.findall(r"""(?:import|from|src=|href=|url\()\s*["'(]?((?:https?:)?//[^"')\s]+)""", text)
    assert fetched == []
    if name in OURS:
        assert re.findall(r"https?://(?!www\.w3\.org/)", text) == []


@pytest.mark.parametrize("name", [name for name in OURS if not name.endswith(".css")])
def test_no_script_and_no_style_stands_in_a_document(name: str) -> None:
    text = (FOLDER / name).read_text()
    code = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)
    assert not (name.endswith((".html", ".svg")) and INLINE.search(text))


@pytest.mark.parametrize("name", [name for name in OURS if name.endswith(".js")])
def test_the_token_is_put_into_no_storage_and_no_url(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert not re.findall(r"localStorage|sessionStorage|indexedDB|document\.cookie|caches\.", text)
    # The module that has the token keeps it to itself.
    assert name == "api.js" or not re.findall(r"\bAuthorization\b", text)


@pytest.mark.parametrize("name", OURS)
def test_the_files_of_the_console_stay_short(name: str) -> None:
    assert len((FOLDER / name).read_text().splitlines()) < 450


def test_all_references_are_relative_so_that_a_prefix_may_stand_before_them() -> None:
    text = (FOLDER / "console.html").read_text()
    references = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert references
    assert not [one for one in references if one.startswith("/")]
    assert {one.removeprefix("console/") for one in references if "/" in one} <= set(FILES)


async def test_a_ticket_opens_one_channel_in_place_of_the_token(shared: Daemon) -> None:
    given = ticket(shared)
    assert await handshake(shared, given) == 101
    assert await handshake(shared, "") == 401
    assert await handshake(shared, given[:-2] + "xx") == 401
    assert shared.call("GET", f"/v1/uploads?file_token={given}", token=None).status == 401


async def test_a_ticket_of_another_channel_is_refused(shared: Daemon) -> None:
    url = f"{shared.url}/v1/ws?channel=exec&file_token={ticket(shared)}"
    async with asyncio.timeout(ANSWER_SECONDS), aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.receive()
        assert socket.close_code == 1011


async def test_a_signed_url_of_a_file_opens_no_socket_and_a_ticket_reads_no_file(shared: Daemon) -> None:
    given = shared.call("POST", "/v1/files/download-url", {"path": "pty"}).json()["url"].rpartition("file_token=")[2]
    assert await handshake(shared, given) == 403
    answer = shared.call("GET", f"/v1/file?path=pty&file_token={ticket(shared)}", token=None)
    assert answer.status == 403


def test_a_ticket_is_given_to_nobody_without_the_token(shared: Daemon) -> None:
    assert shared.call("POST", "/v1/ws-ticket", {"channel": "pty"}, token=None).status == 401
    assert shared.call("POST", "/v1/ws-ticket", {"channel": "other"}).status == 400


async def test_without_a_token_the_page_may_open_sockets_and_others_may_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--insecure")
    given = daemon.call("POST", "/v1/ws-ticket", {}, token=None).json()["token"]
    assert daemon.call("GET", "/console", token=None).status == 200
    assert await handshake(daemon, given, "", Origin=daemon.url) == 101
    assert await handshake(daemon, given, "", Origin="https://evil.example") == 403
