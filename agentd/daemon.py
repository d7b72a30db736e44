"""The composition root: builds the house, serves, drains. The only module that knows all the others.

The life of a daemon: sockets bound -> workspace and reserved tree -> rooms opened (recovery) -> token -> the command
that it was given, if any -> requests -> ``agentd ready`` -> SIGTERM or SIGINT, which the command gets too, or the
command's end -> ``/readyz`` says no -> listeners closed -> requests finished or cancelled -> rooms closed, whatever
still runs with them -> background jobs ended -> exit 0. A second signal ends the process at once.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

import msgspec
import uvloop

from agentd.background import Background
from agentd.config import Config, ConfigError
from agentd.dialects.blackbox import BlackboxRows, blackbox
from agentd.dialects.choice import chosen, with_root
from agentd.dialects.conway import ConwayRows, conway
from agentd.dialects.daytona import daytona
from agentd.dialects.duvo import DuvoRows, duvo
from agentd.dialects.nullspace import nullspace
from agentd.dialects.nullspace.code import CodeRows
from agentd.dialects.nullspace.entries import EntryRows
from agentd.dialects.nullspace.exec_socket import ExecChannel
from agentd.dialects.nullspace.files import FileRows
from agentd.dialects.nullspace.git import GitRows
from agentd.dialects.nullspace.listing import ListingRows
from agentd.dialects.nullspace.metrics import MetricsRows
from agentd.dialects.nullspace.processes import ProcessRows
from agentd.dialects.nullspace.search import SearchRows
from agentd.dialects.nullspace.sessions import SessionRows
from agentd.dialects.nullspace.sockets import SocketRows
from agentd.dialects.nullspace.terminals import TerminalRows
from agentd.dialects.nullspace.transfers import TransferRows
from agentd.dialects.nullspace.trees import TreeRows
from agentd.dialects.nullspace.uploads import UploadRows
from agentd.dialects.nullspace.watching import WatchRows
from agentd.errors import AgentError
from agentd.failpoints import VARIABLE, arm
from agentd.http import listen
from agentd.http.about import about
from agentd.http.access import Access, Brake
from agentd.http.endpoint import Dialect
from agentd.http.health import directory_writable
from agentd.http.origin import Origins
from agentd.http.server import Limits, Server
from agentd.linux.features import features
from agentd.linux.notify import notify, watchdog_seconds
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.threads import in_thread
from agentd.linux.workspace import RESERVED, keep_secret, open_reserved, open_workspace
from agentd.rooms import House, Rooms, open_rooms, start_entrypoint
from agentd.telemetry import Metrics, fields

KEPT_NAME = "token"

_log = logging.getLogger("agentd")


def nullspace_of(rooms: Rooms, config: Config) -> Dialect:
    terminals = TerminalRows(rooms.terminals)
    watching = WatchRows(rooms.watches, rooms.places)
    rows = (
        UploadRows(rooms.uploads),
        FileRows(rooms.files, rooms.writing, rooms.places),
        EntryRows(rooms.changes, rooms.moving, rooms.editing, rooms.places),
        TransferRows(rooms.writing, rooms.places),
        ListingRows(rooms.listing, rooms.places),
        SearchRows(rooms.search, rooms.places),
        TreeRows(rooms.archives, rooms.measuring, rooms.files, rooms.places),
        ProcessRows(rooms.processes),
        CodeRows(rooms.contexts),
        GitRows(rooms.git),
        MetricsRows(rooms.meter),
        SessionRows(rooms.sessions),
        terminals,
        watching,
        SocketRows({"": watching.converse, "exec": ExecChannel(rooms.processes).converse, "pty": terminals.converse}),
    )
    return nullspace((row for topic in rows for row in topic.endpoints()), config.sandbox_id)


def daytona_of(rooms: Rooms, config: Config) -> Dialect:
    return daytona(rooms, config.sandbox_id)


def duvo_of(rooms: Rooms, config: Config) -> Dialect:
    return duvo(DuvoRows(rooms.listing, rooms.writing, rooms.places, config.workspace), config.sandbox_id)


def blackbox_of(rooms: Rooms, config: Config) -> Dialect:
    files = (rooms.files, rooms.writing, rooms.changes, rooms.listing, rooms.archives)
    return blackbox(BlackboxRows(*files, rooms.places, config.workspace), config.sandbox_id)


def conway_of(rooms: Rooms, config: Config) -> Dialect:
    used = (rooms.files, rooms.writing, rooms.listing, rooms.processes, rooms.places)
    return conway(ConwayRows(*used, config.workspace), config.sandbox_id)


# Every dialect there is: what makes it of the rooms.
DIALECTS: tuple[Callable[[Rooms, Config], Dialect], ...] = (
    nullspace_of,
    daytona_of,
    duvo_of,
    blackbox_of,
    conway_of,
)


class Tokens:
    """The valid tokens of a file, one a line; an empty line is none. ``directory``: fd of that of a relative path."""

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
        return tokens


async def serve(config: Config, command: Sequence[str] = ()) -> int:
    """See the module. Returns 0 after a drain in time, and also where requests had to be cancelled; the command's
    status where that was asked for."""
    manager = os.environ.pop("NOTIFY_SOCKET", None)
    metrics = Metrics()
    open_files = _raise_open_files()
    async with asyncio.TaskGroup() as group, AsyncExitStack() as closing:
        ended = _Ended()
        sockets = _bind(config, closing)
        root, places, workspace, reserved = await in_thread(_ground, config)
        background = Background(group)
        house = House(config, root, root.users, places, workspace, reserved, metrics, background, closing, open_files)
        closing.push_async_callback(background.finish)
        rooms = await open_rooms(house)
        own, dialects = _served(rooms, house)
        found = await in_thread(features, reserved)
        house.capabilities |= {**found, "durability": house.capabilities.get("durability", config.uploads.durability)}
        tokens = None if config.insecure else await in_thread(_tokens, house)
        reload = [] if tokens is None else [tokens.reload]
        entrypoint = None
        if command:
            entrypoint = await start_entrypoint(house, rooms, command, ended.asked.set)
            reload.append(partial(entrypoint.send, signal.SIGHUP))
        _on_hangup(*reload)
        server = Server(
            [own, *dialects],
            access=Access(
                lambda: tokens.valid if tokens else None,
                Brake(config.limits.unauthenticated_per_second, time.monotonic),
            ),
            writable=lambda: directory_writable(workspace),
            metrics=metrics,
            limits=_server_limits(config),
            origins=_origins(config),
            receivers=config.uploads.parts_at_once,
        )
        addresses = [listen.url(one) for one in sockets]
        await server.start(sockets)
        _watch(background, manager)
        _say("".join(f"agentd ready on {address}\n" for address in addresses))
        notify("READY=1", manager)
        await ended.asked.wait()
        _log.info("draining", extra=fields(seconds=config.drain_timeout))
        notify("STOPPING=1", manager)
        rooms.processes.hang_up()
        async with asyncio.TaskGroup() as draining:
            if entrypoint is not None:
                entrypoint.send(ended.signal)
                draining.create_task(entrypoint.process.wait(config.drain_timeout))
            in_time = await server.drain(config.drain_notice, config.drain_timeout)
        _log.info("drained", extra=fields(in_time=in_time))
    return entrypoint.status if entrypoint is not None and config.end_with_command else 0


def _served(rooms: Rooms, house: House) -> tuple[Dialect, list[Dialect]]:
    """The daemon's own pages, and the dialects that are wanted."""
    config, dialects = house.config, list[Dialect]()
    own = about(dialects, house.metrics, house.capabilities)
    try:
        wanted = chosen([make(rooms, config) for make in DIALECTS], config.dialects)
    except ValueError as error:
        raise ConfigError("dialects", str(error)) from None
    try:
        dialects += with_root(wanted, own, config.dialect_at_root)
    except ValueError as error:
        raise ConfigError("dialect_at_root", str(error)) from None
    return own, dialects


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
    """asked: set by the first SIGTERM or SIGINT, which is ``signal``, or by somebody else; a second signal ends the
    process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

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
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)


def _bind(config: Config, closing: AsyncExitStack) -> list[socket.socket]:
    sockets = []
    for address in config.listen:
        try:
            bound = listen.bind(address)
        except (ValueError, OSError) as error:
            raise ConfigError("listen", f"{address}: {getattr(error, 'strerror', None) or error}") from None
        closing.callback(listen.remove, address)
        sockets.append(bound)
        if config.insecure and not listen.is_local(bound):
            raise ConfigError("insecure", f"{address} can be reached from other machines; there a token is needed")
    return sockets


def _ground(config: Config) -> tuple[Root, Places, int, int]:
    """Root, what paths mean in it, workspace fd and reserved fd. Blocks."""
    try:
        root = Root(config.root, f"{config.workspace.rstrip('/')}/{RESERVED}")
    except (AgentError, OSError) as error:
        raise ConfigError("root", f"{config.root}: {_reason(error)}") from None
    users = root.users
    try:
        owner = users.find(config.default_user) if config.default_user else users.of(os.geteuid())
    except AgentError as error:
        raise ConfigError("default_user", error.detail) from None
    try:
        workspace = open_workspace(root, config.workspace, owner)
        reserved = open_reserved(workspace)
    except (AgentError, OSError) as error:
        what = f"{config.workspace} cannot be used: {_reason(error)}; name another sandbox directory with --root DIR"
        raise ConfigError("root", what) from None
    root.reserve(reserved)
    strict = config.user_access == "kernel"
    return root, Places(users, owner, workspace=config.workspace, cwd=config.cwd, strict=strict), workspace, reserved


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
