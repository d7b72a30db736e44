"""One method per request of the native API, with the patience a network needs."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aiohttp
import msgspec

from agentd.client.source import PIECE
from agentd.linux.threads import in_thread

DEFAULT_URL = "http://127.0.0.1:8811"
REPEATED_STATUS = (408, 429, 503)
ANSWER_SECONDS = 300.0
SILENT_SECONDS = 60.0  # of a stream in which something comes at least every 15 s
LONGEST_PAUSE = 60.0
FIRST_RETRIES = 2  # where nothing has answered yet: the address may well be wrong

T = TypeVar("T")


class ApiError(Exception):
    """The daemon said no. `str()` is its sentence for the reader.

    status: HTTP status. code: the error's name (``file_upload_error``, ``not_found``). reason: the finer name of an
    upload error (``missing_parts``), else None. details: values for a program, such as ``missing``
    ([[first, last], ...]). retry_after: seconds the daemon asks to wait, else None.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        reason: str | None = None,
        retryable: bool = False,
        upload_id: str | None = None,
        details: Mapping[str, object] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.reason = reason
        self.detail = detail
        self.retryable = retryable
        self.upload_id = upload_id
        self.details = dict(details or {})
        self.retry_after = retry_after


class Unreachable(ConnectionError):
    """No answer, or a connection that broke each time it was tried."""


class Broken(ConnectionError):
    """A stream that ended before its last word; what follows is to be had on another connection."""


class FileChanged(Exception):
    """The file is no longer the one that a download had begun with."""


class Session(msgspec.Struct, frozen=True):
    """An upload as the daemon reports it (wire contract, session object); keys that are not used here are ignored."""

    upload_id: str
    kind: str
    status: str
    target_path: str
    content_length: int
    accepted_bytes: int
    part_size: int
    part_count: int
    max_concurrency: int
    expires_at: str
    next_part: int | None = None
    whole_checksum_sha256: str | None = None

    def span(self, number: int) -> tuple[int, int]:
        """First byte and length of a part."""
        first = number * self.part_size
        return first, min(self.part_size, self.content_length - first)

    def has(self, number: int) -> bool:
        """Whether this part is accepted for certain: a session names only the lowest missing one."""
        return self.next_part is None or number < self.next_part


class Entry(msgspec.Struct, frozen=True):
    """A file, directory or link in the sandbox; size in bytes, mode as octal text (``0644``)."""

    name: str
    path: str
    is_dir: bool
    size: int
    type: str | None = None
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    modified_time: str | None = None
    symlink_target: str | None = None


class _WithSession(msgspec.Struct):
    session: Session


class _Listing(msgspec.Struct):
    items: list[Session]


class Calls:
    """The native API of one daemon. Use as an asynchronous context manager.

    url: ``http://host:port`` (a path in it is taken as the mount, default ``/v1``) or ``unix:PATH``; else ValueError.
    token: sent as a bearer token; None sends none. retries: how often one request is repeated.
    """

    def __init__(self, url: str = DEFAULT_URL, *, token: str | None = None, retries: int = 5) -> None:
        self._where = url
        self._socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        origin = "http://localhost" if self._socket else url.rstrip("/")
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is neither http://HOST:PORT nor unix:PATH")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._mount = origin if parts.path else f"{origin}/v1"
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._retries = retries
        self._answered = False
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=ANSWER_SECONDS),
            read_bufsize=PIECE,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def create_upload(
        self,
        target: str,
        size: int,
        *,
        kind: str = "file",
        source_kind: str = "restartable_file",
        conflict: str = "merge",
        user: str | None = None,
        sha256: str | None = None,
        key: str | None = None,
    ) -> Session:
        """Opens an upload of `size` bytes; the same `key` (default: a new one) finds the same session again."""
        wanted = {
            "kind": kind,
            "source_kind": source_kind,
            "target_path": target,
            "content_length": size,
            "conflict": conflict,
            "archive_format": "tar" if kind == "directory_tar" else None,
            "checksum_algorithm": "sha256",
            "whole_checksum_sha256": sha256,
            "metadata": {},
        } | ({"user": user} if user else {})
        headers = {"Idempotency-Key": key or str(uuid4())}
        return decoded(await self._call("POST", "/uploads", json=wanted, headers=headers), _WithSession).session

    async def upload_status(self, upload_id: str) -> Session:
        return decoded(await self._call("GET", f"/uploads/{quote(upload_id)}"), Session)

    async def list_uploads(self) -> list[Session]:
        """All uploads of the daemon, those that ended not long ago too."""
        return decoded(await self._call("GET", "/uploads"), _Listing).items

    async def put_part(
        self,
        upload_id: str,
        number: int,
        body: bytes | aiohttp.Payload,
        *,
        sha256: str | None = None,
        expect: bool = False,
    ) -> Session:
        """Sends one part, once: nothing is repeated. `expect` asks first, so a part that is there does not travel."""
        headers = {"Content-Type": "application/octet-stream"}
        if sha256:
            headers["X-Nullspace-Part-SHA256"] = sha256
        path = f"/uploads/{quote(upload_id)}/parts/{number}"
        return decoded(await self._once("PUT", path, data=body, headers=headers, expect100=expect), Session)

    async def complete_upload(self, upload_id: str, sha256: str | None = None) -> Session:
        """Publishes. Returns when the target shows the content; asking again gives the same answer."""
        wanted = {"whole_checksum_sha256": sha256} if sha256 else None
        headers = {"Idempotency-Key": str(uuid4())}
        path = f"/uploads/{quote(upload_id)}/complete"
        return decoded(await self._call("POST", path, json=wanted, headers=headers), _WithSession).session

    async def abort_upload(self, upload_id: str) -> None:
        await self._call("DELETE", f"/uploads/{quote(upload_id)}")

    async def entry(self, path: str, user: str | None = None) -> Entry:
        return decoded(await self._call("POST", "/files/info", json={"path": path, "user": user}), Entry)

    async def download(
        self,
        path: str,
        write: Callable[[bytes], object],
        *,
        user: str | None = None,
        begins: Callable[[int | None], None] = lambda length: None,
        restart: Callable[[], None] | None = None,
    ) -> int:
        """Feeds a file's bytes in order to `write`, which may block, and returns their number.

        begins: is told the length (None when unknown) before the first byte, again whenever it begins anew.
        A connection that breaks on the way goes on where it broke, as long as each new one brings something. If the
        file has changed by then, `restart` may forget what was written, and all comes again; without it, FileChanged.
        """
        query = {"path": path} | ({"user": user} if user else {})
        received = fruitless = 0
        tag: str | None = None

        async def attempt(_again: bool) -> aiohttp.ClientResponse:
            goes_on = {"Range": f"bytes={received}-", "If-Range": tag} if received and tag else {}
            response = await self._http.get(f"{self._mount}/file", params=query, headers=goes_on, allow_redirects=False)
            self._answered = True
            if response.status != 200 and not (goes_on and response.status == 206):
                async with response:
                    raise _refusal(response, await response.read())
            return response

        while True:
            async with await self._repeat(attempt) as response:
                if response.status == 206:
                    _check_goes_on(response, received)
                else:
                    if received:
                        if restart is None:
                            raise FileChanged(f"{path} changed after {received} bytes of it had come")
                        await in_thread(restart)
                        received = 0
                    begins(response.content_length)
                    tag = _strong_tag(response)
                before = received
                try:
                    async for piece in response.content.iter_chunked(PIECE):
                        await in_thread(write, piece)
                        received += len(piece)
                    return received
                except (aiohttp.ClientError, TimeoutError) as error:
                    fruitless = fruitless + 1 if received == before else 0
                    if (received and tag is None) or fruitless > self._retries:
                        raise Unreachable(f"the connection broke after {received} bytes: {_said(error)}") from error
            await asyncio.sleep(_pause(fruitless))

    async def _call(self, method: str, path: str, **request: Any) -> bytes:
        return await self._repeat(lambda _again: self._once(method, path, **request))

    async def _once(self, method: str, path: str, *, base: str | None = None, **request: Any) -> bytes:
        """base: what ``path`` is below; None for the mount."""
        url = f"{base or self._mount}{path}"
        async with self._http.request(method, url, allow_redirects=False, **request) as response:
            self._answered = True
            raw = await response.read()
            if response.status >= 300:
                raise _refusal(response, raw)
            return raw

    async def _repeat(
        self, attempt: Callable[[bool], Awaitable[T]], *, failed: Callable[[Exception], None] = lambda error: None
    ) -> T:
        """Calls ``attempt(again)`` until it returns, the daemon refuses for good, or patience ends (Unreachable)."""
        tried = 0
        while True:
            try:
                return await attempt(tried > 0)
            except (aiohttp.ClientError, ConnectionError, TimeoutError, ApiError) as error:
                pause = self._pause_after(error, tried)
                failed(error)
            await asyncio.sleep(pause)
            tried += 1

    async def _unbroken(self, stream: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """What ``stream()`` yields until it returns; called anew where its connection breaks, with the same patience,
        which begins again with whatever comes."""
        tried = 0
        while True:
            try:
                async with aclosing(stream()) as items:
                    async for item in items:
                        tried = 0
                        yield item
                return
            except (aiohttp.ClientError, ConnectionError, TimeoutError, ApiError) as error:
                pause = self._pause_after(error, tried)
            await asyncio.sleep(pause)
            tried += 1

    def _pause_after(self, error: Exception, tried: int) -> float:
        """Seconds until the next attempt; raises what the caller is to know where there shall be none."""
        if isinstance(error, Unreachable):
            raise error
        if isinstance(error, ApiError):
            if error.status not in REPEATED_STATUS or tried >= self._retries:
                raise error
            return _pause(tried, error.retry_after or 0.0)
        never = isinstance(error, aiohttp.ClientConnectorError) and not self._answered
        if tried >= (min(self._retries, FIRST_RETRIES) if never else self._retries):
            raise Unreachable(f"{self._where} does not answer: {_said(error)}") from error
        return _pause(tried)

    async def _lines(self, method: str, path: str, **request: Any) -> AsyncGenerator[bytes, None]:
        """The lines of an answer in NDJSON as they come, but for empty ones. ApiError; any error of the connection."""
        headers = {"Accept": "application/x-ndjson"} | request.pop("headers", {})
        patience = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENT_SECONDS)
        url = f"{self._mount}{path}"
        async with self._http.request(
            method, url, allow_redirects=False, headers=headers, timeout=patience, **request
        ) as response:
            self._answered = True
            if response.status >= 300:
                raise _refusal(response, await response.read())
            rest = b""
            async for piece in response.content.iter_any():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield line


def _pause(tried: int, asked: float = 0.0) -> float:
    """Seconds before the next attempt, ``asked`` by the daemon or growing with the attempts; not the same for all."""
    return max(min(asked, LONGEST_PAUSE), min(0.25 * 2.0**tried, 4.0)) * random.uniform(1.0, 1.25)  # noqa: S311


def _strong_tag(response: aiohttp.ClientResponse) -> str | None:
    """What tells this content from any other (RFC 9110 section 8.8.3); a weak tag does not."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else None


def _check_goes_on(response: aiohttp.ClientResponse, received: int) -> None:
    told = response.headers.get("Content-Range", "")
    if not told.startswith(f"bytes {received}-"):
        raise ApiError(206, "invalid_response", f"bytes from {received} on were asked for, and {told!r} came")


def decoded(raw: bytes, shape: type[T]) -> T:
    """ApiError where it is nothing of the kind. A byte of a name that is no UTF-8 comes as a lone surrogate (PEP 383),
    which msgspec does not take."""
    try:
        try:
            return msgspec.json.decode(raw, type=shape)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(json.loads(raw), shape)
    except ValueError as error:
        raise ApiError(200, "invalid_response", f"the answer is not one of agentd's: {error}") from error


def _refusal(response: aiohttp.ClientResponse, raw: bytes) -> ApiError:
    """An error answer as an exception: the wire contract's shape, RFC 9457's, or no JSON at all."""
    try:
        told = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        told = {}
    inner = told.get("error_detail") or {}
    text = (
        inner.get("message") or told.get("error") or told.get("detail") or f"HTTP {response.status} {response.reason}"
    )
    pause = response.headers.get("Retry-After", "")
    return ApiError(
        response.status,
        str(told.get("code", "unknown")),
        str(text),
        reason=inner.get("reason"),
        retryable=bool(inner.get("retryable", told.get("retryable", False))),
        upload_id=inner.get("upload_id"),
        details=inner.get("details") or told.get("details"),
        retry_after=float(pause) if pause.isdigit() else None,
    )


def _said(error: BaseException) -> str:
    # aiohttp wraps what the system said in words about its own settings.
    return str(getattr(error, "os_error", error)) or type(error).__name__
