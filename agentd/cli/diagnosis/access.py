"""Who the daemon can act as, its token, where it listens, and whether one answers there."""

import asyncio
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from agentd import __version__
from agentd.cli import health
from agentd.cli.diagnosis import BROKEN, DEGRADED, NOTE, OK, Check, Finding, Place, said
from agentd.client import ApiError, Client, Unreachable
from agentd.http import listen
from agentd.linux.identity import acts_as_others
from agentd.linux.syscalls import capget

OTHERS = 0o077
PATIENCE_SECONDS = 5.0
TOKEN = "token"  # noqa: S105 - the name of a file

# capabilities(7): number, name, what is missing without it.
CAPABILITIES = (
    (0, "CAP_CHOWN", "what is uploaded stays the daemon's own"),
    (1, "CAP_DAC_OVERRIDE", "files of others cannot be read or written"),
    (3, "CAP_FOWNER", "modes and times of others' files cannot be set"),
    (5, "CAP_KILL", "processes of others cannot be ended"),
    (6, "CAP_SETGID", "nothing can be done as another user"),
    (7, "CAP_SETUID", "nothing can be done as another user"),
)


def users(place: Place) -> Iterator[Finding]:
    own = os.geteuid()
    if place.owner is not None:
        others = acts_as_others()
        if place.owner.uid != own and not others:
            what = f"the default user is {place.owner.name}, but this is user {own}, who cannot act as others"
            yield Finding("users", BROKEN, what, "run the daemon as root, or leave --default-user out")
        elif others:
            yield Finding("users", OK, f"the default user is {place.owner.name}; it can act as any other, too")
        else:
            what = f"everything is done as user {place.owner.name}: it cannot act as others"
            yield Finding("users", NOTE, what, "run the daemon as root for a sandbox of several users")
    if own == 0:
        held = capget().effective
        for number, name, lost in CAPABILITIES:
            if not held >> number & 1:
                yield Finding(
                    "capabilities", DEGRADED, f"no {name}: {lost}", f"give it to the container: --cap-add {name}"
                )


def token(place: Place) -> Iterator[Finding]:
    if place.config.insecure:
        yield Finding("token", NOTE, "insecure: whoever reaches the daemon may do everything")
        return
    path = token_file(place)
    if place.config.token_file is None and (path is None or not os.path.exists(path)):
        yield Finding("token", NOTE, "there is none yet: the daemon's start makes one")
        return
    assert path is not None
    shown = os.path.realpath(path)
    try:
        status, lines = os.stat(path), Path(path).read_text(errors="replace").split()
    except OSError as error:
        yield Finding("token", BROKEN, f"{shown}: {said(error)}", "make it, or leave --token-file out")
        return
    if not lines:
        yield Finding("token", BROKEN, f"{shown} holds no token", "write one into it, one a line")
    elif status.st_mode & OTHERS and stat.S_ISREG(status.st_mode):
        what = f"{shown} has mode {stat.S_IMODE(status.st_mode):04o}: users of the sandbox may read it"
        yield Finding("token", DEGRADED, what, f"chmod 600 {shown}")
    else:
        yield Finding("token", OK, shown)


def token_file(place: Place) -> str | None:
    """Where it is, or will be kept; None where that is not known yet."""
    if place.config.token_file is not None or place.reserved is None:
        return place.config.token_file
    return f"/proc/self/fd/{place.reserved}/{TOKEN}"


def listening(place: Place) -> Iterator[Finding]:
    for address in place.config.listen:
        if _is_handed(address):
            yield Finding("listen", NOTE, f"{address} is opened by a service manager, which this is not run by")
        elif address.startswith("unix:"):
            yield _unix(address)
        else:
            yield _port(address, insecure=place.config.insecure)


def _is_handed(address: str) -> bool:
    return address.partition(":")[0] in ("fd", "systemd")


def _port(address: str, *, insecure: bool) -> Finding:
    try:
        with ExitStack() as held:
            sockets = [held.enter_context(bound) for bound in listen.bind(address)]
            local = all(map(listen.is_local, sockets))
    except ValueError as error:
        return Finding("listen", BROKEN, str(error), "see --listen")
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _answers(address):
            return Finding("listen", OK, f"{address}: a daemon listens there")
        advice = "choose another with --listen; port 0 picks a free one"
        return Finding("listen", BROKEN, f"{address}: {said(error)}", advice)
    if local:
        return Finding("listen", OK, f"{address} is free")
    if insecure:
        return Finding(
            "listen", BROKEN, f"{address} can be reached from other machines, without a token", "drop --insecure"
        )
    what = f"{address} is free, and can be reached from other machines, over HTTP that is not encrypted"
    return Finding("listen", NOTE, what)


def _unix(address: str) -> Finding:
    path = address.removeprefix("unix:")
    if _answers(address):
        return Finding("listen", OK, f"{address}: a daemon listens there")
    directory = os.path.dirname(path) or "."
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return Finding("listen", BROKEN, f"{path} is there, and is no socket", "choose another path with --listen")
    if not os.access(directory, os.W_OK):
        return Finding(
            "listen", BROKEN, f"{directory} is not there, or may not be written to", "make it, or choose another"
        )
    return Finding("listen", OK, f"{address} is free")


def _answers(address: str) -> bool:
    """Whether what listens there says that it is alive, as agentd does."""
    try:
        return health.answer(address) == "200"
    except (OSError, ValueError):
        return False


def daemon(place: Place, url: str | None) -> Iterator[Finding]:
    """The one at ``url``, or where the configuration has it listen."""
    wanted = url or next((_url(one) for one in place.config.listen if not _is_handed(one)), None)
    if wanted is None:
        return
    path = token_file(place)
    try:
        words = Path(path).read_text(errors="replace").split() if path and os.path.exists(path) else []
        client = Client(wanted, token=words[0] if words else None, retries=0)
    except OSError as error:
        yield Finding("daemon", BROKEN, f"{path}: {said(error)}", "name its token with --token-file")
        return
    except ValueError as error:
        yield Finding("daemon", BROKEN, str(error), "see --url")
        return
    try:
        version, filesystem, durable = asyncio.run(_asked(client))
    except (Unreachable, TimeoutError) as error:
        level, advice = (BROKEN, "start it: agentd serve") if url else (NOTE, "")
        yield Finding("daemon", level, f"none answers at {wanted}: {error or 'it takes too long'}", advice)
    except ApiError as error:
        if error.status == 401 and not words:
            what = f"{wanted} answers, but there is no token to ask with"
            yield Finding("daemon", NOTE, what, "name one with --token-file")
            return
        advice = "name its token with --token-file" if error.status == 401 else "look at its log"
        yield Finding("daemon", DEGRADED, f"{wanted} answers: {error.detail} (HTTP {error.status})", advice)
    else:
        yield Finding("daemon", OK, f"{wanted}: agentd {version}, workspace on {filesystem}, durability {durable}")
        if version != __version__:
            yield Finding("daemon", DEGRADED, f"it is agentd {version}, this is {__version__}", "restart the daemon")


def _url(address: str) -> str:
    """A connection to the wildcard address is one to this machine (ip(7))."""
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    return f"http://{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}.get(host, host) }:{port}"  # noqa: S104


async def _asked(client: Client) -> tuple[str, str, str]:
    async with client, asyncio.timeout(PATIENCE_SECONDS):
        version, can = await client.version(), await client.capabilities()
        return version.version, can.filesystem, can.durability


CHECKS: tuple[Check, ...] = (users, token, listening)
