"""What an earlier daemon left, read and put right before anybody is served. Running it twice changes nothing more.

Left-overs of a create or a delete go. An upload whose header cannot be believed is quarantined, alone; one that this
daemon has no right to read is listed with those, and stays where it is. One whose records or staging file are damaged
fails with ``state_lost``: accepted bytes may be gone, and it says so.
"""

import errno
import logging
import os
import stat

import msgspec

from agentd.core.states import UploadState
from agentd.uploads import journal
from agentd.uploads.journal import Journal, Record
from agentd.uploads.staging import BOOT_ID, Store
from agentd.uploads.upload import Upload

_log = logging.getLogger("agentd.uploads")
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors that say nothing about the upload that was read


class Recovered(msgspec.Struct):
    journal: Journal
    records: list[Record]
    damage: str | None
    data_size: int | None  # None: there is no staging file


class Found(msgspec.Struct):
    uploads: list[Recovered] = msgspec.field(default_factory=list)
    quarantined: list[str] = msgspec.field(default_factory=list)
    leftovers: int = 0
    staged_bytes: int = 0  # on the disk


def scan(store: Store) -> Found:
    """Reads every upload of ``store``; clears away and quarantines. Blocks."""
    found = Found(leftovers=store.delete_leftovers())
    refused = []
    for upload_id in store.ids():
        try:
            recovered, staged = _read(store, upload_id)
        except (journal.JournalDamaged, OSError) as error:
            if isinstance(error, OSError) and error.errno in _MACHINE:
                raise
            if isinstance(error, PermissionError):
                _log.exception("upload %s stays for a daemon with the rights of the one that it is of", upload_id)
                refused.append(upload_id)
            else:
                store.quarantine(upload_id)
        else:
            found.uploads.append(recovered)
            found.staged_bytes += staged
    found.quarantined = store.quarantined() + refused
    return found


def _read(store: Store, upload_id: str) -> tuple[Recovered, int]:
    files = store.open(upload_id)
    try:
        read, records, damage = journal.read(files.journal)
        if read.header.upload_id != upload_id:
            raise journal.JournalDamaged("the journal is of another upload")
        if files.data < 0:
            return Recovered(read, records, damage, None), 0
        data = os.fstat(files.data)
        if not stat.S_ISREG(data.st_mode):
            raise journal.JournalDamaged("the staging file is no file")
        return Recovered(read, records, damage, data.st_size), data.st_blocks * 512
    finally:
        files.close()


def restore(upload: Upload, recovered: Recovered) -> None:
    """Replays the records into ``upload``; afterwards its ``intent`` is set where a completion has to be resumed."""
    for record in recovered.records:
        if upload.state.ended:
            break  # an end that was written over a damaged record may have older ones behind it
        match record:
            case journal.Part():
                upload.accept(record.number, record.digests, record.time)
                if record.boot != BOOT_ID:
                    upload.unverified.add(record.number)
            case journal.Intent():
                upload.intent = record
            case journal.Rollback():
                upload.intent = None
            case journal.Published():
                if upload.state is not UploadState.COMPLETING:
                    upload.turn(UploadState.COMPLETING, record.time)
                upload.finish(record)
            case journal.Abort():
                upload.turn(UploadState.ABORTED, record.time)
            case journal.Expire():
                upload.turn(UploadState.EXPIRED, record.time)
            case journal.Extend():
                upload.expires = record.expires
    if upload.state.ended:
        return
    renamed = upload.intent is not None and recovered.data_size is None
    if recovered.damage is not None or (recovered.data_size != upload.header.size and not renamed):
        upload.intent = None
        upload.fail("state_lost", upload.updated)
