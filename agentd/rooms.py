"""The rooms, and what they are built from. Each is opened once and shared by all dialects."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import msgspec

from agentd.background import Background
from agentd.config import Config, ConfigError
from agentd.errors import AgentError
from agentd.files.archive import Archives
from agentd.files.changes import Changes
from agentd.files.drafts import Drafts
from agentd.files.editing import Editing
from agentd.files.listing import Listing
from agentd.files.moving import Moving
from agentd.files.operations import Files
from agentd.files.search import Search
from agentd.files.usage import Measuring
from agentd.files.watch import Watches, WatchLimits
from agentd.files.writing import Writing
from agentd.linux.cgroups import Cgroups, open_cgroups
from agentd.linux.identity import Users
from agentd.linux.launcher import launcher
from agentd.linux.meter import Meter
from agentd.linux.notify import FdStore
from agentd.linux.oserrors import os_errors
from agentd.linux.places import Places
from agentd.linux.reserved import inode
from agentd.linux.root import Root
from agentd.linux.spawn import Limits, Settings
from agentd.linux.threads import in_thread
from agentd.linux.workspace import open_workspace
from agentd.processes.contexts import ContextLimits, Contexts
from agentd.processes.entrypoint import Entrypoint
from agentd.processes.git import Git
from agentd.processes.handle import Handle
from agentd.processes.handles import HandleLimits, Handles
from agentd.processes.pty import TerminalLimits, Terminals
from agentd.processes.quarters import Quarters
from agentd.processes.reaper import Reaper
from agentd.processes.registry import Processes
from agentd.processes.session import SessionLimits
from agentd.processes.sessions import Sessions
from agentd.processes.surroundings import Surroundings, variables_of
from agentd.processes.terms import ProcessLimits
from agentd.telemetry import Metrics, fields
from agentd.uploads.archive import ArchiveLimits
from agentd.uploads.publish import Publisher
from agentd.uploads.registry import Uploads
from agentd.uploads.staging import Store, StoreLocked, can_sync
from agentd.uploads.terms import UploadLimits

_log = logging.getLogger("agentd")


class House(msgspec.Struct):
    """What rooms are built from.

    workspace, reserved: directory fds, open for the daemon's life. closing: what is pushed here is closed after the
    last request, last pushed first. open_files: the soft limit that the daemon was started with. capabilities: more
    for ``/v1/capabilities``. variables: of every process, above those of the environment file.
    """

    config: Config
    root: Root
    users: Users
    places: Places
    workspace: int
    reserved: int
    metrics: Metrics
    background: Background
    closing: AsyncExitStack
    store: FdStore
    open_files: int = 1024
    capabilities: dict[str, object] = msgspec.field(default_factory=dict)
    variables: Mapping[str, str] = {}


class Rooms(msgspec.Struct):
    """Those who own the state. places: what a path and a user of a call mean."""

    places: Places
    uploads: Uploads
    files: Files
    writing: Writing
    changes: Changes
    editing: Editing
    moving: Moving
    listing: Listing
    search: Search
    archives: Archives
    measuring: Measuring
    watches: Watches
    processes: Processes
    contexts: Contexts
    git: Git
    meter: Meter
    terminals: Terminals
    sessions: Sessions
    handles: Handles


async def open_rooms(house: House) -> Rooms:
    """ConfigError where another daemon serves this root."""
    uploads = await _uploads(house)
    files = Files(house.root, house.users)
    drafts = await in_thread(Drafts, house.root, house.reserved, house.config.uploads.min_free_bytes)
    house.closing.callback(drafts.close)
    durable = house.capabilities["durability"] == "power"
    writing = Writing(house.root, files, drafts, durable=durable)
    changes = Changes(house.root, house.users, files, drafts)
    reserved = inode(os.fstat(house.reserved))
    moving = Moving(house.root, files, writing, changes, drafts, reserved=reserved, durable=durable)
    listing, search = Listing(house.root, house.users), Search(house.root, files)
    archives, measuring = Archives(house.root, house.users), Measuring(house.root)
    processes = await _processes(house)
    terminals, sessions = _shells(house, processes)
    await terminals.recover()
    context_limits = ContextLimits(**msgspec.structs.asdict(house.config.contexts))
    contexts = Contexts(processes, context_limits, house.background.spawn)
    house.closing.push_async_callback(contexts.close)
    git = Git(processes, house.places, house.root, house.background.spawn)
    meter = await in_thread(Meter, house.workspace)
    handles = await _handles(house, processes)
    watches = house.config.watches
    return Rooms(
        house.places,
        uploads,
        files,
        writing,
        changes,
        Editing(files, writing),
        moving,
        listing,
        search,
        archives,
        measuring,
        Watches(house.root, WatchLimits(watches.max_open, watches.max_directories * 2 // 3, watches.max_directories)),
        processes,
        contexts,
        git,
        meter,
        terminals,
        sessions,
        handles,
    )


async def _uploads(house: House) -> Uploads:
    config = house.config
    values = {field: getattr(config.uploads, field) for field in UploadLimits.__struct_fields__}
    limits = UploadLimits(**values)
    archive = ArchiveLimits(
        entries=config.uploads.archive_max_entries,
        bytes=config.uploads.archive_max_bytes or limits.max_upload_bytes,
        depth=config.uploads.archive_max_depth,
        free_floor=limits.min_free_bytes,
    )
    publisher = Publisher(house.root, house.places, archive, reserved=inode(os.fstat(house.reserved)))
    try:
        if limits.durability == "power" and not await in_thread(can_sync, house.reserved):
            _log.warning("the workspace's file system cannot sync: acknowledged parts survive the daemon's death alone")
            limits = msgspec.structs.replace(limits, durability="process")
        durable = limits.durability == "power"
        store = await in_thread(lambda: Store(house.workspace, os.dup(house.reserved), durable=durable))
    except StoreLocked as error:
        path = os.readlink(f"/proc/self/fd/{house.workspace}")
        what = f"{path}: {error}; stop that one, or name another directory with --workspace or --root"
        raise ConfigError("workspace", what) from None
    uploads = Uploads(store, house.root, publisher, house.places, limits, house.background.spawn)
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
    return uploads


async def _processes(house: House) -> Processes:
    config = house.config.processes
    limits = ProcessLimits(**{field: getattr(config, field) for field in ProcessLimits.__struct_fields__})
    try:
        variables = await in_thread(variables_of, config.environment_file)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError("processes.environment_file", f"{config.environment_file}: {what}") from None
    cgroups = await _cgroups(house) if config.cgroup == "auto" else None
    house.capabilities["cgroup"] = cgroups is not None
    house.capabilities["launcher"] = (await in_thread(launcher)).is_native
    processes = Processes(
        *(house.root, house.places, limits),
        Settings(house.open_files, config.nice, config.oom_score_adj, cgroups),
        Surroundings(
            house.config.cwd or house.config.workspace,
            config.shell,
            config.path,
            config.lang,
            {**variables, **house.variables},
        ),
        most=Limits(
            cpu_seconds=config.cpu_seconds,
            memory_bytes=config.memory_bytes,
            processes=config.user_processes,
            open_files=config.open_files,
        ),
        directory=house.reserved,
        spawn=house.background.spawn,
        store=house.store,
    )
    reaper = Reaper()
    house.closing.callback(reaper.stop)
    reaper.start()
    house.closing.push_async_callback(lambda: processes.close(keep=house.config.keep_processes))
    await processes.recover(keep=house.config.keep_processes)
    house.metrics.gauge("agentd_processes_running", "Processes that run", lambda: processes.running)
    house.metrics.gauge("agentd_orphans_reaped", "Orphans that were reaped", lambda: reaper.reaped)
    return processes


async def _cgroups(house: House) -> Cgroups | None:
    try:
        cgroups = await in_thread(open_cgroups)
    except OSError as error:
        _log.warning("processes get no cgroups: %s", error.strerror)
        return None
    house.closing.callback(cgroups.close)
    _log.info("each process gets a cgroup", extra=fields(controllers=sorted(cgroups.controllers)))
    return cgroups


def _shells(house: House, processes: Processes) -> tuple[Terminals, Sessions]:
    terminal_limits = TerminalLimits(**msgspec.structs.asdict(house.config.terminals))
    terminals = Terminals(processes, house.places, terminal_limits, house.background.spawn, house.store)
    house.closing.push_async_callback(lambda: terminals.close(keep=house.config.keep_processes))
    session_limits = SessionLimits(**msgspec.structs.asdict(house.config.sessions))
    sessions = Sessions(processes, house.places, session_limits, house.background.spawn)
    house.closing.push_async_callback(sessions.close)
    house.metrics.gauge("agentd_terminals_open", "Open terminals", lambda: len(terminals.list()))
    house.metrics.gauge("agentd_sessions_open", "Open shell sessions", lambda: sessions.open_count)
    return terminals, sessions


async def _handles(house: House, processes: Processes) -> Handles:
    """Stand-alone they are opened; else there are none."""
    config, spawn = house.config, house.background.spawn

    def places_of(handle: Handle) -> Places:
        owner = house.places.find("/", handle.user).owner
        if handle.cwd is not None:
            with os_errors("make", handle.cwd):
                os.close(open_workspace(house.root, handle.cwd, owner))
        return house.places.elsewhere(handle.cwd, owner)

    async def furnish(handle: Handle) -> Quarters:
        places = await in_thread(places_of, handle)
        own = processes.beside(places, handle.cwd, handle.first)
        own.change_variables(handle.env, ())
        return Quarters(
            places=places,
            processes=own,
            contexts=Contexts(own, ContextLimits(**msgspec.structs.asdict(config.contexts)), spawn),
            git=Git(own, places, house.root, spawn),
            terminals=Terminals(own, places, TerminalLimits(**msgspec.structs.asdict(config.terminals)), spawn),
            sessions=Sessions(own, places, SessionLimits(**msgspec.structs.asdict(config.sessions)), spawn),
        )

    limits = HandleLimits(**msgspec.structs.asdict(config.handles))
    handles = Handles(furnish, house.reserved, limits, config.processes.grace, spawn)
    if config.standalone:
        await handles.open(keep=config.keep_processes)
        house.closing.push_async_callback(lambda: handles.close(keep=house.config.keep_processes))
        house.metrics.gauge("agentd_handles", "Machines and sandboxes of stand-alone mode", lambda: len(handles.list()))
    elif not config.keep_processes:
        spawn(handles.clear())
    return handles


async def start_entrypoint(house: House, rooms: Rooms, argv: Sequence[str], ended: Callable[[], None]) -> Entrypoint:
    """The command beside the daemon. ended: called after its end, where the daemon is to end with it.

    ConfigError where it cannot be run."""
    if house.config.keep_processes:
        raise ConfigError("keep_processes", "a command that follows -- ends with the daemon; leave one of them out")
    try:
        entrypoint = await Entrypoint.start(rooms.processes, argv)
    except AgentError as error:
        raise ConfigError("command", error.detail) from None

    async def watch() -> None:
        ending = await entrypoint.process.wait()
        assert ending is not None
        _log.info("the command has ended", extra=fields(exit_code=ending.code, signal=ending.signal_name))
        if house.config.end_with_command:
            ended()

    house.background.spawn(watch())
    return entrypoint
