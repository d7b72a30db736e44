"""Content that the kernel makes, read from the real /proc."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import Conflict, InvalidRequest
from agentd.files import generated
from agentd.files.operations import Files
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.root import Root

ROOT = Identity(0, 0, (), "root", "/root")


def at(path: str) -> Place:
    return Place(path, None, ROOT, ())


@pytest.fixture
def files() -> Iterator[Files]:
    root = Root("/", "/nowhere/.nullspace")
    yield Files(root, root.users)
    root.close()


def test_what_has_no_end_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "LIMIT", 100)
    with pytest.raises(InvalidRequest, match="no end within 100 bytes"):
        files.open(at("/proc/cpuinfo"))


def test_what_the_kernel_does_not_give_is_no_fault_of_the_disk(files: Files) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            with pytest.raises(Conflict, match="Input/output error"):
                files.open(at(f"/proc/{other.pid}/mem"))
        finally:
            other.kill()


def test_a_copy_is_like_no_other_and_the_file_itself_is_not_copied(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with files.open(at(str(tmp_path / "f"))) as first, files.open(at(str(tmp_path / "f"))) as second:
        assert first.version == second.version
        assert os.fstat(first.fd).st_ino == (tmp_path / "f").stat().st_ino
    with files.open(at("/proc/version")) as first, files.open(at("/proc/version")) as second:
        assert first.version != second.version
        assert os.pread(first.fd, 1000, 0) == Path("/proc/version").read_bytes()


def test_a_file_written_all_the_time_never_has_the_same_version_twice(files: Files, tmp_path: Path) -> None:
    path, seen = tmp_path / "f", set()
    with path.open("wb", buffering=0) as written:
        for turn in range(30):
            os.pwrite(written.fileno(), bytes([turn]), 0)
            with files.open(at(str(path))) as content:
                seen.add(content.version)
    assert len(seen) == 30
