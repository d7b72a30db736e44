"""What an upload survives, and what it says when it does not."""

import hashlib
import os
from pathlib import Path

import pytest

from agentd.client import Client, Observer, SourceChanged, SourceDiffers, open_source

from .conftest import ScriptedDaemon

pytestmark = pytest.mark.timeout(20)


async def test_every_part_and_the_whole_digest_arrive(client: Client, daemon: ScriptedDaemon, file: Path) -> None:
    with open_source(str(file)) as source:
        done = await client.upload(source, "/workspace/f")
    assert b"".join(daemon.parts[number] for number in range(5)) == file.read_bytes()
    assert daemon.digests == [done.sha256] == [hashlib.sha256(file.read_bytes()).hexdigest()]


async def test_an_empty_file_has_no_part_to_send(client: Client, daemon: ScriptedDaemon, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open_source(str(tmp_path / "empty")) as source:
        await client.upload(source, "/workspace/f")
    assert daemon.travelled == []
    assert daemon.digests == [hashlib.sha256().hexdigest()]


async def test_a_part_whose_connection_broke_is_sent_again(client: Client, daemon: ScriptedDaemon, file: Path) -> None:
    daemon.faults = ["cut", "cut"]
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f")
    assert sorted(daemon.travelled) == [0, 1, 2, 3, 4]
    assert len(daemon.digests) == 1


async def test_a_part_that_was_stored_before_its_connection_broke_does_not_travel_again(
    client: Client, daemon: ScriptedDaemon, file: Path
) -> None:
    daemon.faults = ["cut after storing"]
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f")
    assert sorted(daemon.travelled) == [0, 1, 2, 3, 4]
    assert daemon.status_calls == 1


async def test_a_busy_daemon_is_asked_again(client: Client, daemon: ScriptedDaemon, file: Path) -> None:
    daemon.faults = ["busy", "busy", "busy"]
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f")
    assert sorted(daemon.travelled) == [0, 1, 2, 3, 4]


async def test_a_resume_sends_the_missing_parts_alone(client: Client, daemon: ScriptedDaemon, file: Path) -> None:
    daemon.length = file.stat().st_size
    daemon.parts = {0: b"\0" * 1000, 2: b"\2" * 1000, 4: b"end"}
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f", resume="up_1")
    assert sorted(daemon.travelled) == [1, 3]


async def test_a_resume_with_a_file_of_another_length_sends_nothing(
    client: Client, daemon: ScriptedDaemon, file: Path
) -> None:
    daemon.length = 17
    with open_source(str(file)) as source:
        with pytest.raises(SourceDiffers, match="4003 bytes, the upload was opened for 17 bytes"):
            await client.upload(source, "/workspace/f", resume="up_1")
    assert daemon.travelled == []


@pytest.mark.parametrize("size", [100, 9000])
async def test_an_upload_whose_source_changes_is_aborted(
    client: Client, daemon: ScriptedDaemon, file: Path, size: int
) -> None:
    class Meddler(Observer):
        def accepted(self, number: int, session: object) -> None:
            os.truncate(file, size)

    with open_source(str(file)) as source:
        with pytest.raises(SourceChanged, match=r"source.bin changed while .* aborted"):
            await client.upload(source, "/workspace/f", concurrency=1, progress=Meddler())
    assert daemon.aborted
    assert daemon.digests == []
