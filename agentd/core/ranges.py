"""Which bytes of a file a request gets: preconditions and ranges (RFC 9110 sections 13 and 14).

One range is served as 206. Of several the client gets the whole file as 200, which section 14.2 leaves to the server:
who asks for several has to be able to read that answer anyway. A header that cannot be understood is ignored, as the
RFC has it.
"""

import re
from enum import Enum

import msgspec

_RANGE = re.compile(r"bytes=[ \t,]*(?:0*([0-9]+)-(?:0*([0-9]+))?|-0*([0-9]+))[ \t,]*(?![\s\S])", re.IGNORECASE)
_TAG = re.compile(r'(W/)?"([^\x00-\x20\x22\x7f]*)"')
_FAR = 10**18
_DIGITS = 18


class Verdict(Enum):
    WHOLE = 200
    PART = 206
    NOT_MODIFIED = 304
    PRECONDITION_FAILED = 412
    NOT_SATISFIABLE = 416


class Answer(msgspec.Struct, frozen=True):
    """What is to be sent: ``length`` bytes from ``first`` on, which is nothing unless the verdict is WHOLE or PART."""

    verdict: Verdict
    first: int = 0
    length: int = 0


class Version(msgspec.Struct, frozen=True):
    """What is known of the file now.

    size: bytes. tag: the strong entity tag without its quotes; "" for none. modified: of Last-Modified, Unix seconds.
    dated: whether ``modified`` alone tells this content from any other, so that it may do for If-Range.
    """

    size: int
    tag: str
    modified: int
    dated: bool


class Wishes(msgspec.Struct, frozen=True):
    """The request's headers that decide. Dates are Unix seconds, None where absent or no date.

    span: the Range header; to be left out where the method is not GET. if_range: a date, or the header's text.
    """

    if_match: str | None = None
    if_unmodified_since: int | None = None
    if_none_match: str | None = None
    if_modified_since: int | None = None
    span: str | None = None
    if_range: str | int | None = None


def answer(wishes: Wishes, now: Version) -> Answer:
    """Decides in the order of RFC 9110 section 13.2.2; an entity tag goes before the date of the same purpose."""
    if wishes.if_match is not None:
        if not _names(wishes.if_match, now.tag, weakly=False):
            return Answer(Verdict.PRECONDITION_FAILED)
    elif wishes.if_unmodified_since is not None and now.modified > wishes.if_unmodified_since:
        return Answer(Verdict.PRECONDITION_FAILED)
    if wishes.if_none_match is not None:
        if _names(wishes.if_none_match, now.tag, weakly=True):
            return Answer(Verdict.NOT_MODIFIED)
    elif wishes.if_modified_since is not None and now.modified <= wishes.if_modified_since:
        return Answer(Verdict.NOT_MODIFIED)
    if wishes.span is None or not _goes_on(wishes.if_range, now):
        return Answer(Verdict.WHOLE, 0, now.size)
    return _part(wishes.span, now.size)


def _names(header: str, tag: str, *, weakly: bool) -> bool:
    """Whether an If-Match or If-None-Match header means this entity tag (section 8.8.3.2)."""
    if header.strip() == "*":
        return True
    return any(found == tag != "" and (weakly or not weak) for weak, found in _TAG.findall(header))


def _goes_on(if_range: str | int | None, now: Version) -> bool:
    """Whether the client's part is of this very content (section 13.1.5)."""
    if if_range is None:
        return True
    if isinstance(if_range, int):
        return now.dated and if_range == now.modified
    return now.tag != "" and if_range.strip() == f'"{now.tag}"'


def _part(header: str, size: int) -> Answer:
    found = _RANGE.match(header.strip())
    whole = Answer(Verdict.WHOLE, 0, size)
    if found is None:
        return whole
    first, last, suffix = (None if text is None else _number(text) for text in found.groups())
    if suffix is not None:
        # The last bytes of an empty file are satisfiable, and no Content-Range could say so.
        if suffix and not size:
            return whole
        first, last = max(size - suffix, 0), size - 1
        if not suffix:
            return Answer(Verdict.NOT_SATISFIABLE)
    assert first is not None
    last = _FAR if last is None else last
    if last < first:
        return whole
    if first >= size:
        return Answer(Verdict.NOT_SATISFIABLE)
    return Answer(Verdict.PART, first, min(last + 1, size) - first)


def _number(digits: str) -> int:
    """Larger than any file where there are more digits than any file's size has."""
    return int(digits) if len(digits) <= _DIGITS else _FAR
