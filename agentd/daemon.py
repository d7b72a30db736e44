"""The composition root: builds the house, serves, drains. The only module that knows all the others.

The life of a daemon: sockets bound -> workspace and reserved tree -> rooms opened (recovery) -> token -> the command
that it was given, if any -> requests -> ``agentd ready`` -> SIGTERM or SIGINT, which the command gets too, or the
command's end -> ``/readyz`` says no -> listeners closed -> requests finished or cancelled -> rooms closed, whatever
still runs with them -> background jobs ended -> exit 0. A second signal ends the process at once. SIGUSR2, unless it is
the command's, is a SIGTERM that leaves running what runs: for a service manager that restarts the daemon.
"""

import asyncio
import logging
import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

import msgspec
import uvloop

from agentd.apis import dialects_of
from agentd.background import Background
from agentd.claim import Claim, Init
from agentd.config import Config, ConfigError
from agentd.dialects.choice import chosen, with_root
from agentd.errors import AgentError, NotFound
from agentd.failpoints import VARIABLE, arm
from agentd.http import listen
from agentd.http.about import about
from agentd.http.access import Access, Brake
from agentd.http.endpoint import Dialect
from agentd.http.health import directory_writable
from agentd.http.origin import Origins
from agentd.http.server import Limits, Server
from agentd.http.signing import DIGEST, HASHED
from agentd.linux.features import features
from agentd.linux.handed import Handed, take_handed
from agentd.linux.identity import ONE_USER, acts_as_others
from agentd.linux.notify import FdStore, notify, watchdog_seconds
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.signals import on_signal
from agentd.linux.threads import in_thread
from agentd.linux.workspace import RESERVED, keep_secret, open_reserved, open_workspace
from agentd.rooms import House, Rooms, open_rooms, start_entrypoint
from agentd.telemetry import Metrics, fields

KEPT_NAME = "token"
# Ends the daemon as SIGTERM does, but for what it has started: the next one goes on with that.
LEAVING = signal.SIGUSR2

_log = logging.getLogger("agentd")


class Tokens:
    """The valid tokens of a file, one a line, or its digest (see `Access`); an empty line is none. ``directory``: fd of
    that of a relative path."""

    def __init__(self, path: str, directory: int | None = None) -> None:
        self.path = path
        self._directory = directory
        self.valid = self._read()

    def reload(self) -> None:
        """Takes the file's tokens from now on; where it cannot be read, the old ones stay."""
        try:
            self.valid = self._read()
        except ConfigError:
            _log.exception("the old tokens stay valid")

    def _read(self) -> tuple[bytes, ...]:
        try:
            with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory), "rb") as file:
                tokens = tuple(line.strip() for line in file if line.strip())
        except OSError as error:
            raise ConfigError("token_file", f"{self.path}: {error.strerror}") from None
        if not tokens:
            raise ConfigError("token_file", f"{self.path} holds no token")
        if any(line.startswith(DIGEST) and not re.fullmatch(HASHED.encode(), line) for line in tokens):
            raise ConfigError("token_file", f"{self.path}: 64 hexadecimal digits, lower case, follow {DIGEST.decode()}")
        return tokens


async def serve(config: Config, command: Sequence[str] = ()) -> int:
    """See the module. Returns 0 after a drain in time, and also where requests had to be cancelled; the command's
    status where that was asked for."""
    manager = os.environ.pop("NOTIFY_SOCKET", None)
    metrics = Metrics()
    open_files = _raise_open_files()
    async with asyncio.TaskGroup() as group, AsyncExitStack() as closing:
        ended = _Ended()
        handed = _handed()
        sockets = _bind(config, handed, closing)
        root, places, workspace, reserved = await in_thread(_ground, config)
        background = Background(group)
        ground = (config, root, root.users, places, workspace, reserved, metrics, background, closing)
        house = House(*ground, FdStore(manager, handed), open_files)
        closing.push_async_callback(background.finish)
        tokens = None if config.insecure else await in_thread(_tokens, house)
        _on_hangup(*([tokens.reload] if tokens else []))
        brake = Brake(config.limits.unauthenticated_per_second, time.monotonic)
        pool = Access(lambda: tokens.valid if tokens else None, brake)
        claim = Claim(reserved, pool, lambda init: _prepared_places(init.within(config), root))
        if config.await_init:
            await claim.recover()
        server = Server(
            access=Access(lambda: claim.token or (tokens.valid if tokens else None), brake),
            writable=lambda: directory_writable(workspace),
            metrics=metrics,
            limits=_server_limits(config),
            origins=_origins(config),
            receivers=config.uploads.parts_at_once,
        )
        ready = partial(_ready, server, sockets, background, manager)
        rooms = entrypoint = None
        if config.await_init and claim.init is None:
            server.take([_pages(house, [], claim)], waiting=True)
            await ready()
            await _first_of(group, claim.given, ended.asked)
        if not ended.asked.is_set():
            waited = server.serving
            await in_thread(_settle, house, claim.init)
            rooms = await open_rooms(house)
            house.capabilities |= await in_thread(_found, house)
            if command:
                entrypoint = await start_entrypoint(house, rooms, command, ended.asked.set)
                _on_hangup(*([tokens.reload] if tokens else []), partial(entrypoint.send, signal.SIGHUP))
            server.take(_served(rooms, house, claim))
            if not waited:
                await ready()
            claim.served.set()
        await ended.asked.wait()
        claim.close()
        if ended.signal == LEAVING:
            house.config = msgspec.structs.replace(house.config, keep_processes=True)
        _log.info("draining", extra=fields(seconds=config.drain_timeout))
        notify("STOPPING=1\nSTATUS=draining", manager)
        if rooms is not None:
            rooms.processes.hang_up()
            rooms.handles.hang_up()
        async with asyncio.TaskGroup() as draining:
            if entrypoint is not None:
                entrypoint.send(ended.signal)
                draining.create_task(entrypoint.process.wait(config.drain_timeout))
            in_time = await server.drain(config.drain_notice, config.drain_timeout)
        _log.info("drained", extra=fields(in_time=in_time))
    return entrypoint.status if entrypoint is not None and config.end_with_command else 0


async def _ready(server: Server, sockets: Sequence[socket.socket], background: Background, manager: str | None) -> None:
    addresses = [listen.url(one) for one in sockets]
    try:
        await server.start(sockets)
    except OSError as error:  # another program was faster, since two may have an address until one listens
        raise ConfigError("listen", f"{' '.join(addresses)}: {error.strerror}") from None
    _watch(background, manager)
    _say("".join(f"agentd ready on {address}\n" for address in addresses))
    notify(f"READY=1\nSTATUS=serving on {' '.join(addresses)}", manager)


async def _first_of(group: asyncio.TaskGroup, *events: asyncio.Event) -> None:
    waits = [group.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _settle(house: House, init: Init | None) -> None:
    """The house is one sandbox's from here on. Blocks."""
    if init is not None:
        house.config = init.within(house.config)
        house.variables = init.environment
        house.places = _prepared_places(house.config, house.root)


def _found(house: House) -> dict[str, object]:
    durability = house.capabilities.get("durability", house.config.uploads.durability)
    return {**features(house.reserved), "other_users": acts_as_others(), "durability": durability}


def _pages(house: House, dialects: list[Dialect], claim: Claim) -> Dialect:
    """The daemon's own."""
    more = (claim.endpoint(),) if house.config.await_init else ()
    return about(dialects, house.metrics, house.capabilities, console=house.config.console, more=more)


def _served(rooms: Rooms, house: House, claim: Claim) -> list[Dialect]:
    """The daemon's own pages, and the dialects that are wanted."""
    config, dialects = house.config, list[Dialect]()
    own = _pages(house, dialects, claim)
    wanted = chosen(dialects_of(rooms, config), config.dialects)
    dialects += with_root(wanted, own, config.dialect_at_root)
    return [own, *dialects]


def run(config: Config, command: Sequence[str] = ()) -> int:
    """Serves until a signal; returns the exit status. ConfigError where a setting turns out to be unusable."""
    try:
        arm(os.environ.get(VARIABLE))
    except ValueError as error:
        raise ConfigError(VARIABLE, str(error)) from None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(config, command))
    except* ConfigError as group:
        refused = group
    raise _first(refused)


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    """The error itself; a task group wraps whatever leaves it."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


class _Ended:
    """asked: set by the first SIGTERM, SIGINT or `LEAVING`, which is ``signal``, or by somebody else; a second signal
    ends the process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT, LEAVING):
            on_signal(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        self.asked.set()


def _on_hangup(*jobs: Callable[[], None]) -> None:
    """What SIGHUP does; what it does to any process where there is nothing."""

    def hung_up() -> None:
        for job in jobs:
            job()

    if jobs:
        on_signal(signal.SIGHUP, hung_up)


def _handed() -> list[Handed]:
    try:
        return take_handed(os.environ)
    except (ValueError, OSError) as error:
        raise ConfigError("LISTEN_FDS", str(error)) from None


def _bind(config: Config, handed: Sequence[Handed], closing: AsyncExitStack) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    for address in config.listen:
        try:
            bound = listen.bind(address, handed, sockets)
        except (ValueError, OSError) as error:
            raise ConfigError("listen", f"{address}: {getattr(error, 'strerror', None) or error}") from None
        closing.callback(listen.remove, address, listen.file_of(address))
        sockets += bound
        handed = [one for one in handed if one.fd not in [taken.fileno() for taken in bound]]
        if config.insecure and not all(map(listen.is_local, bound)):
            raise ConfigError("insecure", f"{address} can be reached from other machines; there a token is needed")
    return sockets


def _ground(config: Config) -> tuple[Root, Places, int, int]:
    """Root, what paths mean in it, workspace fd and reserved fd. Blocks."""
    try:
        root = Root(config.root, f"{config.workspace.rstrip('/')}/{RESERVED}")
    except (AgentError, OSError) as error:
        raise ConfigError("root", f"{config.root}: {_reason(error)}") from None
    places = _places(config, root)
    if not acts_as_others():
        _log.info("everything is done as user %s: %s", places.owner.name, ONE_USER)
    try:
        workspace = open_workspace(root, config.workspace, places.owner)
        reserved = open_reserved(workspace)
    except (AgentError, OSError) as error:
        what = f"{config.workspace} cannot be used: {_reason(error)}; name another sandbox directory with --root DIR"
        raise ConfigError("root", what) from None
    root.reserve(reserved)
    return root, _prepared_places(config, root), workspace, reserved


def _places(config: Config, root: Root) -> Places:
    """Blocks."""
    users = root.users
    try:
        owner = users.find(config.default_user) if config.default_user else users.of(os.geteuid())
    except AgentError as error:
        raise ConfigError("default_user", error.detail) from None
    if owner.uid != os.geteuid() and not acts_as_others():
        raise ConfigError("default_user", f"the daemon cannot be {owner.name}: start it as that user, or as root")
    strict = config.user_access == "kernel"
    return Places(users, owner, workspace=config.workspace, cwd=config.cwd, strict=strict)


def _prepared_places(config: Config, root: Root) -> Places:
    """What paths mean from now on; the directory where they begin is made where it is missing. Blocks."""
    places = _places(config, root)
    if config.cwd is None:
        return places
    place = places.find(".")
    try:
        with suppress(NotFound), root.open(place.path, os.O_PATH | os.O_DIRECTORY):
            return places
        os.close(open_workspace(root, place.path, place.owner))
    except (AgentError, OSError) as error:
        raise ConfigError("cwd", f"{config.cwd} cannot be used: {_reason(error)}") from None
    return places


def _reason(error: AgentError | OSError) -> str:
    return error.detail if isinstance(error, AgentError) else error.strerror or str(error)


def _tokens(house: House) -> Tokens:
    """Those of ``token_file``, else of a file that is made and kept in the reserved tree. Blocks."""
    if house.config.token_file is not None:
        return Tokens(house.config.token_file)
    keep_secret(house.reserved, KEPT_NAME)
    _log.info("the token is in %s/%s", os.readlink(f"/proc/self/fd/{house.reserved}"), KEPT_NAME)
    return Tokens(KEPT_NAME, house.reserved)


def _origins(config: Config) -> Origins:
    try:
        return Origins(config.public_url, config.trusted_proxies, config.cors_origins)
    except ValueError as error:
        raise ConfigError("trusted_proxies", str(error)) from None


def _server_limits(config: Config) -> Limits:
    values = msgspec.structs.asdict(config.limits)
    del values["unauthenticated_per_second"]
    return Limits(**values)


def _raise_open_files() -> int:
    """As many fds as allowed: each connection is one, and there are files beside them. Returns the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _watch(background: Background, manager: str | None) -> None:
    """Pings the service manager from the loop, so that a blocked loop is seen."""
    seconds = watchdog_seconds(os.environ)

    async def ping() -> None:
        while seconds:
            notify("WATCHDOG=1", manager)
            await asyncio.sleep(seconds)

    if manager and seconds:
        background.supervise("the watchdog's ping", ping)


def _say(text: str) -> None:
    """On stdout, whether or not anybody reads it."""
    with suppress(OSError):
        os.write(1, text.encode(errors="surrogateescape"))
