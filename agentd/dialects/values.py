"""What values of a request mean in every API, and how those of an answer are written."""

import os
from datetime import UTC, datetime

from agentd.errors import InvalidPath, InvalidRequest
from agentd.http.endpoint import Call
from agentd.http.repeats import KEY
from agentd.linux.places import Place, Places

REPEATS = {KEY: "1 to 255 printable characters: a request that is repeated with its own key is done once"}


def moment(seconds: float) -> datetime:
    """UTC; where no calendar has it (a file may have any time), the first or last that one has."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)


def rfc3339(seconds: float) -> str:
    """RFC 3339, UTC."""
    return moment(seconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def user_name(name: str | None) -> str | None:
    """Trimmed; blank is absent (wire contract, section 1.2)."""
    return (name or "").strip() or None


def text_bytes(text: str) -> bytes:
    """UTF-8, with the bytes that lone surrogates stand for (see `http.codec`). InvalidRequest where they are none."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest("the text has lone surrogates, which are no characters: send it in base64") from None


def idempotency_key(call: Call) -> str | None:
    key = call.headers.get(KEY)
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise InvalidRequest(f"the header {KEY} has to be 1 to 255 printable characters")
    return key


def place_of(places: Places, path: str, user: str | None = None) -> Place:
    """What a call means by a path and a user. InvalidPath for one that is no name, and for an empty one: a home is not
    to be removed by mistake."""
    if not path:
        raise InvalidPath('the path is empty: name an entry, or "." for the directory where relative paths begin')
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise InvalidPath(f"{path!r} has characters that no file name has") from None
    return places.find(path, user_name(user))
