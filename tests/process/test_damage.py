"""What was staged is damaged, or moved away: the one upload says so, and the others never notice."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.uploads.journal import PAGE, RECORD
from tests.conftest import Daemon
from tests.process.harness.journals import accept_before_boot
from tests.process.harness.sender import Refused, Sender
from tests.process.harness.shapes import CONTENT, PART_SIZE, SIZE
from tests.process.harness.site import Site
from tests.process.harness.waiting import eventually

pytestmark = pytest.mark.exhaustive

ROOM = ("--uploads-quota-bytes", str(10 * SIZE))


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def _file_instead(upload: Path) -> None:
    shutil.rmtree(upload)
    upload.write_bytes(b"")


def _replace_by(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(upload: Path) -> None:
        (upload / "data").unlink()
        make(upload / "data")

    return replace


# By name: what happens to an upload's directory.
UNREADABLE: dict[str, Callable[[Path], None]] = {
    "a bit of the header": lambda upload: _flip(upload / "journal", 100),
    "a bit of the magic": lambda upload: _flip(upload / "journal", 3),
    "a journal cut short": lambda upload: os.truncate(upload / "journal", 20),
    "a journal that is empty": lambda upload: os.truncate(upload / "journal", 0),
    "no journal": lambda upload: (upload / "journal").unlink(),
    "no directory": _file_instead,
    "a directory as staging file": _replace_by(Path.mkdir),
    "a link as staging file": _replace_by(lambda path: path.symlink_to("/etc/passwd")),
    "a fifo as staging file": _replace_by(os.mkfifo),
}
LOST: dict[str, Callable[[Path], None]] = {
    "a bit of the first record": lambda upload: _flip(upload / "journal", PAGE + 40),
    "a bit of the last record": lambda upload: _flip(upload / "journal", PAGE + 2 * RECORD.size + 40),
    "a bit of a checksum": lambda upload: _flip(upload / "journal", PAGE + RECORD.size - 1),
    "a bit behind the records": lambda upload: _flip(upload / "journal", PAGE + 9 * RECORD.size),
    "a staging file cut short": lambda upload: os.truncate(upload / "data", PART_SIZE),
    "a staging file that grew": lambda upload: os.truncate(upload / "data", SIZE + 1),
    "no staging file": lambda upload: (upload / "data").unlink(),
}


def _two(site: Site) -> tuple[Sender, Sender]:
    """Two uploads with three of four parts, and a daemon that has ended."""
    senders = Sender(site.place / "hurt", CONTENT), Sender(site.place / "whole", CONTENT)
    daemon = site.start("", *ROOM)
    for sender in senders:
        sender.create(daemon)
        for number in (0, 1, 3):
            sender.put(daemon, number)
    daemon.kill9()
    return senders


def _refusal(ask: Callable[[Daemon], object], daemon: Daemon) -> str:
    with pytest.raises(Refused) as refused:
        ask(daemon)
    return str(refused.value.reason)


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_an_upload_that_cannot_be_read_is_quarantined_alone(site: Site, damage: Callable[[Path], None]) -> None:
    hurt, whole = _two(site)
    damage(site.uploads / hurt.session["upload_id"])
    daemon = site.start("", *ROOM)
    assert daemon.call("GET", "/v1/uploads", token=None).json()["quarantined"] == [hurt.session["upload_id"]]
    assert _refusal(hurt.status, daemon) == "upload_state_lost"
    hurt.abort(daemon)
    assert daemon.call("GET", "/v1/uploads", token=None).json()["quarantined"] == []
    whole.status(daemon)
    whole.send(daemon)
    whole.complete(daemon)
    again = hurt.renewed()
    again.send(daemon)
    again.complete(daemon)
    assert (site.place / "whole").read_bytes() == (site.place / "hurt").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", LOST.values(), ids=LOST)
def test_an_upload_whose_parts_are_not_certain_fails_and_says_so(site: Site, damage: Callable[[Path], None]) -> None:
    hurt, whole = _two(site)
    damage(site.uploads / hurt.session["upload_id"])
    daemon = site.start("", *ROOM)
    listed = daemon.call("GET", hurt.url, token=None).json()
    assert listed["status"] == "failed"
    assert _refusal(lambda daemon: hurt.put(daemon, 2), daemon) == "upload_state_lost"
    assert _refusal(hurt.complete, daemon) == "upload_state_lost"
    assert not hurt.target.exists()
    hurt.abort(daemon)
    whole.send(daemon)
    whole.complete(daemon)
    assert whole.target.read_bytes() == CONTENT
    assert site.start("", *ROOM).call("GET", hurt.url, token=None).json()["status"] == "aborted"


def test_an_abort_that_is_written_over_damage_outlives_a_crash(site: Site) -> None:
    sender = Sender(site.place / "hurt", CONTENT)
    sender.send(site.start("", *ROOM))
    sender.complete(site.start("", *ROOM))
    _flip(site.uploads / sender.session["upload_id"] / "journal", PAGE + RECORD.size + 40)
    daemon = site.start("abort.after_record=exit", *ROOM)
    with pytest.raises(OSError, match=r"Remote end closed|reset"):
        sender.abort(daemon)
    site.check_died()
    assert site.start("", *ROOM).call("GET", sender.url, token=None).json()["status"] == "aborted"


def test_bytes_that_changed_under_the_daemon_are_not_published_under_the_digest_of_others(site: Site) -> None:
    hurt, _ = _two(site)
    _flip(site.uploads / hurt.session["upload_id"] / "data", 12_345)
    daemon = site.start("", *ROOM)
    hurt.put(daemon, 2)
    assert _refusal(hurt.complete, daemon) == "whole_checksum_mismatch"
    assert not hurt.target.exists()


def test_after_the_machine_has_booted_parts_count_where_their_bytes_are_still_there(site: Site) -> None:
    sender, _ = _two(site)
    accept_before_boot(site.uploads / sender.session["upload_id"] / "journal")
    sender.send(site.start("", *ROOM))
    sender.complete(site.daemon)
    assert sender.target.read_bytes() == CONTENT


def test_after_the_machine_has_booted_lost_bytes_are_found_and_said(site: Site) -> None:
    sender, _ = _two(site)
    upload = site.uploads / sender.session["upload_id"]
    accept_before_boot(upload / "journal")
    _flip(upload / "data", PART_SIZE + 7)
    sender.send(site.start("", *ROOM))
    assert _refusal(sender.complete, site.daemon) == "upload_state_lost"
    assert not sender.target.exists()
    assert sender.status(site.daemon)["status"] == "failed"


@pytest.mark.parametrize("decoy", [False, True], ids=["alone", "with another in its place"])
def test_the_reserved_tree_comes_back_when_it_was_renamed(site: Site, decoy: bool) -> None:
    sender = Sender(site.place / "target", CONTENT)
    sender.create(site.start("", *ROOM))
    sender.put(site.daemon, 0)
    os.rename(site.reserved, site.place / "taken")
    if decoy:
        site.reserved.mkdir()
    assert sender.status(site.daemon)["next_part"] == 1
    sender.put(site.daemon, 1)
    other = Sender(site.place / "other", CONTENT)
    other.create(site.daemon)
    assert (site.uploads / sender.session["upload_id"]).is_dir()
    sender.send(site.start("", *ROOM))
    sender.complete(site.daemon)
    assert sender.target.read_bytes() == CONTENT


def test_a_reserved_tree_that_is_away_at_a_start_is_forgotten_until_it_is_back(site: Site) -> None:
    sender = Sender(site.place / "target", CONTENT)
    sender.create(site.start("", *ROOM))
    sender.put(site.daemon, 0)
    os.rename(site.reserved, site.place / "taken")
    site.daemon.kill9()
    assert _refusal(sender.status, site.start("", *ROOM)) == "upload_not_found"
    site.daemon.kill9()
    shutil.rmtree(site.reserved)
    os.rename(site.place / "taken", site.reserved)
    sender.send(site.start("", *ROOM))
    sender.complete(site.daemon)
    assert sender.target.read_bytes() == CONTENT


def test_a_target_that_cannot_be_cleaned_does_not_keep_the_daemon_from_its_work(site: Site) -> None:
    sender = Sender(site.place / "gone/target", CONTENT)
    sender.target.parent.mkdir()
    sender.send(site.start("", *ROOM))
    site.daemon.kill9()
    sender.target.parent.rmdir()
    sender.target.parent.write_bytes(b"a file where the directory was")
    daemon = site.start("", *ROOM)
    assert _refusal(sender.complete, daemon) == "target_conflict"
    sender.target.parent.unlink()
    sender.complete(daemon)
    assert eventually(lambda: sender.target.read_bytes() == CONTENT)
