"""What an upload survives, and what it says when it does not."""

import hashlib
import os
from pathlib import Path

import pytest

from agentd.client import Client, Observer, SourceChanged, SourceDiffers, open_source

from .conftest import ScriptedDaemon

pytestmark = pytest.mark.timeout(20)


async def test_every_part_and_the_whole_digest_arrive(client: Client, scripted: ScriptedDaemon, file: Path) -> None:
    with open_source(str(file)) as source:
        done = await client.upload(source, "/workspace/f")
    assert b"".join(scripted.parts[number] for number in range(5)) == file.read_bytes()
    assert scripted.digests == [done.sha256] == [hashlib.sha256(file.read_bytes()).hexdigest()]


async def test_an_empty_file_has_no_part_to_send(client: Client, scripted: ScriptedDaemon, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open_source(str(tmp_path / "empty")) as source:
        await client.upload(source, "/workspace/f")
    assert scripted.travelled == []
    assert scripted.digests == [hashlib.sha256().hexdigest()]


async def test_a_part_whose_connection_broke_is_sent_again(
    client: Client, scripted: ScriptedDaemon, file: Path
) -> None:
    scripted.faults = ["cut", "cut"]
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f")
    assert sorted(scripted.travelled) == [0, 1, 2, 3, 4]
    assert len(scripted.digests) == 1


async def test_a_part_that_was_stored_before_its_connection_broke_does_not_travel_again(
    client: Client, scripted: ScriptedDaemon, file: Path
) -> None:
    scripted.faults = ["cut after storing"]
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f")
    assert sorted(scripted.travelled) == [0, 1, 2, 3, 4]
    assert scripted.status_calls == 1


async def test_a_busy_daemon_is_asked_again(client: Client, scripted: ScriptedDaemon, file: Path) -> None:
    scripted.faults = ["busy", "busy", "busy"]
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f")
    assert sorted(scripted.travelled) == [0, 1, 2, 3, 4]


async def test_a_resume_sends_the_missing_parts_alone(client: Client, scripted: ScriptedDaemon, file: Path) -> None:
    scripted.length = file.stat().st_size
    scripted.parts = {0: b"\0" * 1000, 2: b"\2" * 1000, 4: b"end"}
    with open_source(str(file)) as source:
        await client.upload(source, "/workspace/f", resume="up_1")
    assert sorted(scripted.travelled) == [1, 3]


async def test_a_resume_with_a_file_of_another_length_sends_nothing(
    client: Client, scripted: ScriptedDaemon, file: Path
) -> None:
    scripted.length = 17
    with open_source(str(file)) as source:
        with pytest.raises(SourceDiffers, match="4003 bytes, the upload was opened for 17 bytes"):
            await client.upload(source, "/workspace/f", resume="up_1")
    assert scripted.travelled == []


@pytest.mark.parametrize("size", [100, 9000])
async def test_an_upload_whose_source_changes_is_aborted(
    client: Client, scripted: ScriptedDaemon, file: Path, size: int
) -> None:
    class Meddler(Observer):
        def accepted(self, number: int, session: object) -> None:
            os.truncate(file, size)

    with open_source(str(file)) as source:
        with pytest.raises(SourceChanged, match=r"source.bin changed while .* aborted"):
            await client.upload(source, "/workspace/f", concurrency=1, progress=Meddler())
    assert scripted.aborted
    assert scripted.digests == []
