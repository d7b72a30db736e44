"""The rooms, and what they are built from. Each is opened once and shared by all dialects."""

import logging
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec

from agentd.background import Background
from agentd.config import Config, ConfigError
from agentd.files.operations import Files
from agentd.linux.identity import Users
from agentd.linux.places import Places
from agentd.linux.reserved import inode
from agentd.linux.root import Root
from agentd.linux.threads import in_thread
from agentd.telemetry import Metrics, fields
from agentd.uploads.archive import ArchiveLimits
from agentd.uploads.publish import Publisher
from agentd.uploads.registry import Uploads
from agentd.uploads.staging import Store, StoreLocked, can_sync
from agentd.uploads.terms import UploadLimits

_log = logging.getLogger("agentd")


@dataclass(slots=True)
class House:
    """What rooms are built from.

    workspace, reserved: directory fds, open for the daemon's life. closing: what is pushed here is closed after the
    last request, last pushed first. capabilities: more for ``/v1/capabilities``.
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
    capabilities: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Rooms:
    """Those who own the state. places: what a path and a user of a call mean."""

    places: Places
    uploads: Uploads
    files: Files


async def open_rooms(house: House) -> Rooms:
    """ConfigError where another daemon serves this root."""
    return Rooms(house.places, await _uploads(house), Files(house.root, house.users))


async def _uploads(house: House) -> Uploads:
    config = house.config
    values = {field: getattr(config.uploads, field) for field in UploadLimits.__struct_fields__}
    limits = UploadLimits(**values)
    archive = ArchiveLimits(
        entries=config.uploads.archive_max_entries,
        bytes=config.uploads.archive_max_bytes or limits.max_upload_bytes,
        depth=config.uploads.archive_max_depth,
    )
    publisher = Publisher(house.root, house.places, archive, reserved=inode(os.fstat(house.reserved)))
    try:
        if limits.durability == "power" and not await in_thread(can_sync, house.reserved):
            _log.warning("the workspace's file system cannot sync: acknowledged parts survive the daemon's death alone")
            limits = msgspec.structs.replace(limits, durability="process")
        durable = limits.durability == "power"
        store = await in_thread(lambda: Store(house.workspace, os.dup(house.reserved), durable=durable))
    except StoreLocked as error:
        raise ConfigError("root", str(error)) from None
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
