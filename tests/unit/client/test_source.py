"""What can be uploaded, and how a directory becomes an archive."""

import hashlib
import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.client import SourceUnusable, open_source

pytestmark = pytest.mark.timeout(20)


def archived(tree: Path) -> bytes:
    with open_source(str(tree)) as source:
        assert (source.kind, source.source_kind) == ("directory_tar", "directory_archive")
        content = os.pread(source.fd, source.size, 0)
        assert source.sha256 == hashlib.sha256(content).hexdigest()
        return content


def grown(top: Path, names: list[str]) -> Path:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return top


def test_a_stream_is_spooled_and_hashed() -> None:
    with open_source("-", io.BytesIO(b"piped")) as source:
        assert os.pread(source.fd, 99, 0) == b"piped"
        assert source.source_kind == "spooled_stream"
        assert source.sha256 == hashlib.sha256(b"piped").hexdigest()


def test_the_same_tree_gives_the_same_archive_whatever_its_order_times_and_owners(tmp_path: Path) -> None:
    names = ["z", "a/y", "a/b/c", "a.txt", ".hidden"]
    one, other = grown(tmp_path / "one", names), grown(tmp_path / "other", names[::-1])
    os.utime(other / "z", (1, 1))
    os.chown(other / "a", 1234, 1234)
    assert archived(one) == archived(other)


def test_members_are_sorted_parents_first_and_carry_no_owner_or_time(tmp_path: Path) -> None:
    grown(tmp_path, ["b/2", "b/1", "a", "b.txt"])
    (tmp_path / "b").chmod(0o2750)
    with tarfile.open(fileobj=io.BytesIO(archived(tmp_path))) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["a", "b", "b/1", "b/2", "b.txt"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert members[1].mode == 0o2750


def test_an_empty_directory_is_one_blank_record(tmp_path: Path) -> None:
    assert archived(tmp_path) == bytes(10_240)


def test_links_are_kept_and_hard_links_become_files(tmp_path: Path) -> None:
    grown(tmp_path, ["d/file"])
    (tmp_path / "d" / "up").symlink_to("../d/file")
    (tmp_path / "twin").hardlink_to(tmp_path / "d" / "file")
    with tarfile.open(fileobj=io.BytesIO(archived(tmp_path))) as archive:
        assert archive.getmember("d/up").linkname == "../d/file"
        twin = archive.extractfile("twin")
        assert twin
        assert twin.read() == b"d/file"


def test_names_that_are_not_text_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    with tarfile.open(fileobj=io.BytesIO(archived(tmp_path))) as archive:
        assert [os.fsencode(name) for name in archive.getnames()] == [b"caf\xe9"]


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../x", "d/../../x"])
def test_a_link_out_of_the_directory_is_refused_before_anything_is_sent(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(SourceUnusable, match="leads out of the directory"):
        archived(tmp_path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, bound_socket])
def test_what_no_archive_may_hold_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "special")
    with pytest.raises(SourceUnusable, match="only files, directories and links"):
        archived(tmp_path)


def test_a_fifo_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceUnusable, match="neither a regular file nor a directory"), open_source(f"{tmp_path}/fifo"):
        pass


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnusable, match="nothing: No such file"), open_source(f"{tmp_path}/nothing"):
        pass
