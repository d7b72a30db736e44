"""What the daemon needs, looked at where it would run: each check yields findings, tries things out where it can, with
the daemon's own code, and leaves nothing behind."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from agentd.config import Config
from agentd.errors import AgentError, NotFound
from agentd.linux.identity import Identity
from agentd.linux.root import Root
from agentd.linux.trees import remove
from agentd.linux.workspace import RESERVED, open_reserved

# From good to bad. What is a note is worth knowing, and no reason to act.
OK, NOTE, DEGRADED, BROKEN = LEVELS = ("ok", "note", "degraded", "broken")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Finding(msgspec.Struct, frozen=True):
    """name: of what was looked at. level: of `LEVELS`. advice: what to do, where something is to be done."""

    name: str
    level: str
    what: str
    advice: str = ""


class Place(msgspec.Struct):
    """What the checks look at.

    owner: who owns what is new, None where there is no such user. workspace, reserved: fds, None where they are made
    at the daemon's start. scratch: fd of an empty directory on the workspace's file system, None where there is none
    to be had.
    """

    config: Config
    root: Root | None = None
    owner: Identity | None = None
    workspace: int | None = None
    reserved: int | None = None
    scratch: int | None = None


Check = Callable[[Place], Iterator[Finding]]


@contextmanager
def prepared(config: Config) -> Iterator[tuple[Place, list[Finding]]]:
    """The place, as far as it is there, and what kept it from being."""
    place, findings = Place(config), list[Finding]()
    with ExitStack() as held:
        try:
            _prepare(place, held, findings)
        except (AgentError, OSError) as error:
            findings.append(Finding("root", BROKEN, said(error), "name another sandbox directory with --root DIR"))
        yield place, findings


def said(error: AgentError | OSError) -> str:
    return error.detail if isinstance(error, AgentError) else error.strerror or str(error)


def _prepare(place: Place, held: ExitStack, findings: list[Finding]) -> None:
    config = place.config
    place.root = root = Root(config.root, f"{config.workspace.rstrip('/')}/{RESERVED}")
    held.callback(root.close)
    findings.append(Finding("root", OK, os.path.realpath(config.root)))
    try:
        place.owner = root.users.find(config.default_user) if config.default_user else root.users.of(os.geteuid())
    except AgentError as error:
        findings.append(Finding("default user", BROKEN, error.detail, "add the user, or name another --default-user"))
    try:
        place.workspace = held.enter_context(root.open(config.workspace, _DIRECTORY)).fd
    except NotFound:
        findings.append(Finding("workspace", NOTE, f"{config.workspace} is not there: the daemon's start makes it"))
    else:
        _prepare_reserved(place, held, findings)
    with suppress(AgentError, OSError):
        place.scratch = held.enter_context(_scratch(place, root))


def _prepare_reserved(place: Place, held: ExitStack, findings: list[Finding]) -> None:
    path = f"{place.config.workspace.rstrip('/')}/{RESERVED}"
    assert place.workspace is not None
    if not os.path.lexists(f"/proc/self/fd/{place.workspace}/{RESERVED}"):
        findings.append(Finding("own directory", NOTE, f"{path} is not there: the daemon's start makes it"))
        return
    try:
        place.reserved = open_reserved(place.workspace)
        held.callback(os.close, place.reserved)
        findings.append(Finding("own directory", OK, f"{path} is the daemon's own, 0700"))
    except (AgentError, OSError) as error:
        advice = f"run this as the daemon's user; if it is, move {path} away: whoever made it could read the token"
        findings.append(Finding("own directory", BROKEN, said(error), advice))


@contextmanager
def _scratch(place: Place, root: Root) -> Iterator[int]:
    """In the daemon's own directory, or as near to it as there is one yet; gone afterwards."""
    with ExitStack() as held:
        parent, path = place.reserved, place.config.workspace
        while parent is None:
            with suppress(NotFound):
                parent = held.enter_context(root.open(path, _DIRECTORY)).fd
            path = os.path.dirname(path)
        name = f".agentd-doctor-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=parent)
        held.callback(remove, parent, name)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        held.callback(os.close, fd)
        yield fd
