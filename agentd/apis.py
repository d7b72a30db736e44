"""Every API there is, made of the rooms. In stand-alone mode they have the rows about machines and sandboxes themselves
too, and a call that names one is answered by what that handle has to itself."""

from collections.abc import Callable, Iterable

from msgspec.structs import asdict, replace

from agentd.config import Config
from agentd.dialects.blackbox import BlackboxRows, blackbox
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
from agentd.errors import SandboxNotReady
from agentd.http.endpoint import Dialect, Endpoint
from agentd.processes.quarters import Quarters
from agentd.rooms import Rooms


def nullspace_of(rooms: Rooms, config: Config) -> Dialect:
    terminals = TerminalRows(rooms.terminals)
    watching = WatchRows(rooms.watches, rooms.places)
    rows = (
        UploadRows(rooms.uploads, rooms.places),
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


# What follows is imported where it is used: most daemons are not alone.


def _machines(rooms: Rooms) -> Iterable[Endpoint]:
    from agentd.dialects.nullspace.machines import MachineRows

    return MachineRows(rooms.handles, rooms.meter, rooms.places).endpoints()


def _sandboxes(rooms: Rooms) -> Iterable[Endpoint]:
    from agentd.dialects.daytona.sandboxes import SandboxRows

    return SandboxRows(rooms.handles, rooms.meter, rooms.places).endpoints()


def _duvo_sandboxes(rooms: Rooms) -> Iterable[Endpoint]:
    from agentd.dialects.duvo_sandboxes import SandboxRows

    return SandboxRows(rooms.handles).endpoints()


Make = Callable[[Rooms, Config], Dialect]
Lives = Callable[[Rooms], Iterable[Endpoint]]

# Every dialect there is: what makes it of the rooms, and what it says of a handle's life.
_DIALECTS: tuple[tuple[Make, Lives], ...] = (
    (nullspace_of, _machines),
    (daytona_of, _sandboxes),
    (duvo_of, _duvo_sandboxes),
    (blackbox_of, lambda _: ()),
    (conway_of, lambda _: ()),
)


def dialects_of(rooms: Rooms, config: Config) -> list[Dialect]:
    """All of them."""
    if config.standalone:
        return [_standing(make, lives, rooms, config) for make, lives in _DIALECTS]
    return [make(rooms, config) for make, _ in _DIALECTS]


def _standing(make: Make, lives: Lives, rooms: Rooms, config: Config) -> Dialect:
    from agentd.dialects.standing import Standing

    def rows_of(quarters: Quarters) -> Iterable[Endpoint]:
        return make(replace(rooms, **asdict(quarters)), config).endpoints

    dialect = make(rooms, config)
    return replace(
        dialect,
        endpoints=(*dialect.endpoints, *lives(rooms)),
        admit=None,
        stand_in=Standing(rooms.handles, rows_of, dialect.ids, config.sandbox_id),
        errors=(*dialect.errors, SandboxNotReady),
    )
