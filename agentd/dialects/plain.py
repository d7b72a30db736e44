"""What the smaller APIs share: Duvo, Blackbox and Conway. Names and shapes only."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import Struct

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.streams import array
from agentd.dialects.values import text_bytes
from agentd.errors import AgentError, InvalidRequest, SandboxNotFound, SandboxNotReady
from agentd.files.listing import Found, Listing
from agentd.files.traversal import batches
from agentd.http.codec import encode
from agentd.http.endpoint import Failed, StreamResult
from agentd.linux.places import Place
from agentd.linux.threads import in_thread

READ_LIMIT = 64 << 20  # bytes of content in one JSON answer
JSON_LIMIT = 96 << 20  # bytes of a JSON body with content: 64 MiB and more, as text or in base64

READ_ERRORS = (*PATH_ERRORS, errors.IsADirectory, errors.RequestTooLarge)

_TOGETHER = 500  # entries

# These APIs know few statuses. Those of HTTP itself (405, 408, 413, 415, 431, 503) stay, as routers and clients act on
# them; the others become what a client expects: the request cannot be done as it is, or it failed here.
_STATUSES = {409: 400, 410: 400, 412: 400, 422: 400, 501: 500, 504: 500, 507: 500}


class ErrorBody(Struct):
    error: str


def admits(name: str, sandbox_id: str | None) -> Callable[[Mapping[str, str]], None]:
    """name: of the segment that names the sandbox. sandbox_id: the one that is answered to, None for any."""

    def admit(values: Mapping[str, str]) -> None:
        if sandbox_id is not None and values.get(name, sandbox_id) != sandbox_id:
            raise SandboxNotFound(f"this is not {values[name]!r}: the request reached the wrong daemon")

    return admit


def tells(body: Callable[[AgentError], dict[str, Any]]) -> Callable[[Failed], tuple[int, dict[str, Any]]]:
    """Failures in the statuses of these APIs; that a sandbox is stopped, of which they know nothing, in its own."""

    def tell(failed: Failed) -> tuple[int, dict[str, Any]]:
        status = failed.error.status
        told = status if isinstance(failed.error, SandboxNotReady) else _STATUSES.get(status, status)
        return told, body(failed.error)

    return tell


async def listed(
    listing: Listing,
    place: Place,
    form: Callable[[Found], Any],
    depth: int = 1,
    more: Mapping[str, object] | None = None,
) -> StreamResult:
    """``{"files": [...], ...}``, sent while the directory is read. form: of an entry. more: the other keys."""
    found = await in_thread(listing.stream, place, depth)

    def shaped(entries: Sequence[Found]) -> bytes:
        return encode([form(entry) for entry in entries])

    end = encode(more or {})[1:]
    chunks = _object(array(batches(found.entries, found.rights, _TOGETHER, shaped)), b"," + end if more else end)
    return StreamResult(chunks, "application/json")


async def _object(files: AsyncGenerator[bytes, None], end: bytes) -> AsyncGenerator[bytes, None]:
    async with aclosing(files):
        before = b'{"files":'
        async for piece in files:
            yield before + piece
            before = b""
    yield end


def bytes_of(content: str, *, base64: bool) -> bytes:
    """InvalidRequest where it is no base64 (RFC 4648), or no text."""
    if not base64:
        return text_bytes(content)
    try:
        return b64decode(content, validate=True)
    except (NotBase64, ValueError) as error:
        raise InvalidRequest(f"content is not base64 (RFC 4648): {error}") from None


def text_of(content: bytes) -> tuple[str, bool]:
    """As text, or where it is none (no UTF-8) in base64, which is what the second says."""
    try:
        return content.decode(), False
    except UnicodeDecodeError:
        return b64encode(content).decode(), True


def file_name(sent: str | None) -> str:
    """The name of a file in a form: what stands behind the last slash (RFC 7578 section 4.2: no path is taken from
    there). InvalidRequest where that names nothing."""
    name = (sent or "").rpartition("/")[2]
    if name in ("", ".", ".."):
        raise InvalidRequest(f"the file {sent!r} of the form has no usable filename", field="file")
    return name
