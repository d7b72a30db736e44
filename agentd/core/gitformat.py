"""What git says in the formats that it makes for programs, and what may be said to it (git-status(1), git-log(1)).

Names are ``str`` with surrogateescape: git's are bytes.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from agentd.errors import InvalidRequest

# One commit: sha, author, address, date, message. To be asked for with ``-z``.
LOG_FORMAT = "%H%x00%an%x00%ae%x00%aI%x00%B"
_LOG_FIELDS = 5

_REMOTE = re.compile(r"(?P<scheme>https?)://(?P<user>[^/@]*@)?(?P<host>[A-Za-z0-9._\-\[\]:]+)(/|\Z)", re.IGNORECASE)
_SSH = re.compile(r"(ssh://|git\+ssh://|ssh\+git://|[^/:\s]+:(?!:|//))", re.IGNORECASE)


class Change(msgspec.Struct, frozen=True):
    """A path that differs. status: XY as in porcelain v2; ``??`` for one that git does not know. staged: the index
    differs from the commit; unstaged: the tree from the index, or it is in conflict. original: where it came from."""

    path: str
    status: str
    staged: bool
    unstaged: bool
    original: str | None = None


class Status(msgspec.Struct):
    """branch: None where the head is detached. ahead, behind: of its upstream; None where it has none."""

    branch: str | None = None
    ahead: int | None = None
    behind: int | None = None
    changes: list[Change] = msgspec.field(default_factory=list)


class Commit(msgspec.Struct, frozen=True):
    """date: of the author, RFC 3339."""

    sha: str
    author_name: str
    author_email: str
    date: str
    message: str


def status(text: bytes) -> Status:
    """Of ``git status --porcelain=v2 --branch -z``."""
    found = Status()
    records = iter(_texts(text))
    for record in records:
        kind, _, rest = record.partition(" ")
        match kind:
            case "#":
                _head(found, rest)
            case "1":
                xy, *_, path = rest.split(" ", 7)
                found.changes.append(_change(path, xy))
            case "2":
                xy, *_, path = rest.split(" ", 8)
                found.changes.append(_change(path, xy, next(records)))
            case "u":
                xy, *_, path = rest.split(" ", 9)
                found.changes.append(Change(path, xy, staged=False, unstaged=True))
            case "?":
                found.changes.append(Change(rest, "??", staged=False, unstaged=True))
    return found


def _head(found: Status, line: str) -> None:
    key, _, value = line.partition(" ")
    if key == "branch.head" and value != "(detached)":
        found.branch = value
    elif key == "branch.ab":
        ahead, behind = value.split(" ")
        found.ahead, found.behind = int(ahead), -int(behind)


def _change(path: str, xy: str, original: str | None = None) -> Change:
    return Change(path, xy, xy[0] != ".", xy[1] != ".", original)


def log(text: bytes) -> list[Commit]:
    """Of ``git log -z --format=LOG_FORMAT``."""
    rows = zip(*[_texts(text)] * _LOG_FIELDS, strict=False)
    return [Commit(sha, name, email, date, message.rstrip("\n")) for sha, name, email, date, message in rows]


def _texts(text: bytes) -> Iterator[str]:
    for part in text.removesuffix(b"\0").split(b"\0") if text else ():
        yield part.decode("utf-8", "surrogateescape")


def check_name(name: str, what: str) -> str:
    """A branch, commit, remote or URL, which git must not take for an option; InvalidRequest."""
    if not name or name.startswith("-") or any(ord(character) < 32 for character in name):
        raise InvalidRequest(f"{name[:80]!r} is no {what}: it is empty, begins with '-' or has control characters")
    return name


def check_url(url: str) -> str:
    """What may be cloned; InvalidRequest, also where it carries credentials, which git would write down."""
    check_name(url, "URL")
    found = _REMOTE.match(url)
    if found is not None and found["user"]:
        raise InvalidRequest("the URL has credentials in it, which git would keep; leave them out and send auth")
    return url


def site(url: str) -> str | None:
    """``scheme://host[:port]`` of an http(s) URL, None for any other."""
    found = _REMOTE.match(url)
    return None if found is None else f"{found['scheme'].lower()}://{found['host']}"


def is_ssh(url: str) -> bool:
    return _SSH.match(url) is not None and site(url) is None


def scrubbed(text: str, secrets: Sequence[str]) -> str:
    """``text`` without any of ``secrets``; those of up to 3 characters would be found everywhere and stay."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "***")
    return text
