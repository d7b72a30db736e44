"""The composition root: builds the house, serves, drains. The only module that knows all the others.

The life of a daemon: sockets bound -> workspace and reserved tree -> rooms opened (recovery) -> token -> requests ->
``agentd ready`` -> SIGTERM or SIGINT -> ``/readyz`` says no -> listeners closed -> requests finished or cancelled ->
rooms closed -> background jobs ended -> exit 0. A second signal ends the process at once.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvloop

from agentd.config import Config, ConfigError
from agentd.dialects.nullspace import NullSpace
from agentd.errors import AgentError
from agentd.failpoints import VARIABLE, arm
from agentd.files.operations import Files
from agentd.http import listen
from agentd.http.about import about
from agentd.http.access import Access, Brake
from agentd.http.endpoint import Dialect
from agentd.http.health import directory_writable
from agentd.http.server import Limits, Server
from agentd.linux.features import features
from agentd.linux.identity import Identity, Users
from agentd.linux.notify import notify, watchdog_seconds
from agentd.linux.reserved import inode
from agentd.linux.root import Root
from agentd.linux.threads import in_thread
from agentd.linux.workspace import RESERVED, keep_secret, open_reserved, open_workspace
from agentd.telemetry import Metrics, fields
from agentd.uploads.archive import ArchiveLimits
from agentd.uploads.publish import Publisher
from agentd.uploads.registry import Uploads
from agentd.uploads.staging import Store, StoreLocked, can_sync
from agentd.uploads.terms import Places, UploadLimits

KEPT_NAME = "token"
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0

_log = logging.getLogger("agentd")


class Background:
    """Work beside the requests, in the daemon's one task group. What fails here ends nothing else."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._jobs: set[asyncio.Task[None]] = set()
        self._services: list[asyncio.Task[None]] = []

    def spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a job that ends by itself; `finish` waits for it."""
        task = self._group.create_task(self._logged(job))
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    def supervise(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        """Runs a service until `finish`; one that fails is started again after a pause that doubles."""
        self._services.append(self._group.create_task(self._supervised(name, service)))

    async def finish(self) -> None:
        """Ends the services and waits for the jobs."""
        for task in self._services:
            task.cancel()
        await asyncio.gather(*self._services, *self._jobs, return_exceptions=True)

    async def _logged(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except Exception:  # noqa: BLE001 - whatever it is, the daemon goes on
            _log.exception("a background job failed")

    async def _supervised(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                await service()
                return
            except Exception:  # noqa: BLE001 - whatever it is, the service is started again
                _log.exception("%s failed and is started again", name)
            if time.monotonic() - started > LAST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)


@dataclass(slots=True)
class House:
    """What rooms and dialects are built from.

    owner: of what is new when a call names no user. workspace, reserved: directory fds, open for the daemon's life.
    closing: what is pushed here is closed after the last request, last pushed first. capabilities: more for
    ``/v1/capabilities``.
    """

    config: Config
    root: Root
    users: Users
    owner: Identity
    workspace: int
    reserved: int
    metrics: Metrics
    background: Background
    closing: AsyncExitStack
    capabilities: dict[str, object] = field(default_factory=dict)


async def open_nullspace(house: House) -> Dialect:
    """The native API, with the rooms it needs. ConfigError where another daemon serves this root."""
    config = house.config
    values = {field: getattr(config.uploads, field) for field in UploadLimits.__struct_fields__}
    limits = UploadLimits(**values)
    archive = ArchiveLimits(
        entries=config.uploads.archive_max_entries,
        bytes=config.uploads.archive_max_bytes or limits.max_upload_bytes,
        depth=config.uploads.archive_max_depth,
    )
    publisher = Publisher(
        *(house.root, house.users, house.owner, archive),
        strict=config.user_access == "kernel",
        reserved=inode(os.fstat(house.reserved)),
    )
    places = Places(config.workspace, config.cwd)
    try:
        if limits.durability == "power" and not await in_thread(can_sync, house.reserved):
            _log.warning("the workspace's file system cannot sync: acknowledged parts survive the daemon's death alone")
            limits = msgspec.structs.replace(limits, durability="process")
        durable = limits.durability == "power"
        store = await in_thread(lambda: Store(house.workspace, os.dup(house.reserved), durable=durable))
    except StoreLocked as error:
        raise ConfigError("root", str(error)) from None
    uploads = Uploads(store, house.root, publisher, places, limits, house.background.spawn)
    house.closing.push_async_callback(uploads.close)
    found = await uploads.open()
    _log.info(
        "uploads recovered",
        extra=fields(uploads=len(found.uploads), quarantined=len(found.quarantined), leftovers=found.leftovers),
    )
    house.background.supervise("the sweep of uploads", uploads.run)
    house.capabilities["durability"] = limits.durability
    gauge = house.metrics.gauge
    gauge("agentd_uploads_open", "Open uploads", lambda: uploads.active)
    gauge("agentd_uploads_reserved_bytes", "Declared bytes of the open uploads", lambda: uploads.reserved)
    gauge("agentd_uploads_quota_bytes", "What may be declared in all", lambda: uploads.quota)
    gauge("agentd_uploads_quarantined", "Uploads that could not be read", lambda: len(uploads.quarantined))
    return NullSpace(uploads, Files(house.root, house.users), publisher, places, config.sandbox_id).dialect()


# Every dialect there is: what opens its rooms and makes it.
DIALECTS: tuple[Callable[[House], Awaitable[Dialect]], ...] = (open_nullspace,)


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


async def serve(config: Config) -> int:
    """See the module. Returns 0 after a drain in time, and also where requests had to be cancelled."""
    manager = os.environ.pop("NOTIFY_SOCKET", None)
    metrics = Metrics()
    _raise_open_files()
    async with asyncio.TaskGroup() as group, AsyncExitStack() as closing:
        ended = _signals()
        sockets = _bind(config, closing)
        root, users, owner, workspace, reserved = await in_thread(_ground, config)
        background = Background(group)
        house = House(config, root, users, owner, workspace, reserved, metrics, background, closing)
        closing.push_async_callback(background.finish)
        dialects = [await build(house) for build in DIALECTS]
        found = await in_thread(features, reserved)
        house.capabilities |= {**found, "durability": house.capabilities.get("durability", config.uploads.durability)}
        tokens = None if config.insecure else await in_thread(_tokens, house)
        if tokens is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tokens.reload)
        server = Server(
            [*dialects, about(dialects, metrics, house.capabilities)],
            access=Access(
                lambda: tokens.valid if tokens else None,
                Brake(config.limits.unauthenticated_per_second, time.monotonic),
            ),
            writable=lambda: directory_writable(workspace),
            metrics=metrics,
            limits=_server_limits(config),
            receivers=config.uploads.parts_at_once,
        )
        addresses = [listen.url(one) for one in sockets]
        await server.start(sockets)
        _watch(background, manager)
        _say("".join(f"agentd ready on {address}\n" for address in addresses))
        notify("READY=1", manager)
        await ended.wait()
        _log.info("draining", extra=fields(seconds=config.drain_timeout))
        notify("STOPPING=1", manager)
        in_time = await server.drain(config.drain_notice, config.drain_timeout)
        _log.info("drained", extra=fields(in_time=in_time))
    return 0


def run(config: Config) -> int:
    """Serves until a signal; returns the exit status. ConfigError where a setting turns out to be unusable."""
    try:
        arm(os.environ.get(VARIABLE))
    except ValueError as error:
        raise ConfigError(VARIABLE, str(error)) from None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(config))
    except* ConfigError as group:
        refused = group
    raise _first(refused)


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    """The error itself; a task group wraps whatever leaves it."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process."""
    ended = asyncio.Event()

    def on_signal(number: int) -> None:
        if ended.is_set():
            os._exit(128 + number)
        ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return ended


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


def _ground(config: Config) -> tuple[Root, Users, Identity, int, int]:
    """Root, users, default owner, workspace fd and reserved fd. Blocks."""
    try:
        root = Root(config.root, f"{config.workspace.rstrip('/')}/{RESERVED}")
    except (AgentError, OSError) as error:
        raise ConfigError("root", f"{config.root}: {_reason(error)}") from None
    users = Users(root)
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
    return root, users, owner, workspace, reserved


def _reason(error: AgentError | OSError) -> str:
    return error.detail if isinstance(error, AgentError) else error.strerror or str(error)


def _tokens(house: House) -> Tokens:
    """Those of ``token_file``, else of a file that is made and kept in the reserved tree. Blocks."""
    if house.config.token_file is not None:
        return Tokens(house.config.token_file)
    keep_secret(house.reserved, KEPT_NAME)
    _log.info("the token is in %s/%s", os.readlink(f"/proc/self/fd/{house.reserved}"), KEPT_NAME)
    return Tokens(KEPT_NAME, house.reserved)


def _server_limits(config: Config) -> Limits:
    values = msgspec.structs.asdict(config.limits)
    del values["unauthenticated_per_second"]
    return Limits(**values)


def _raise_open_files() -> None:
    """As many fds as allowed: each connection is one, and there are files beside them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
