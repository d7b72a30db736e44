"""Targets that no rename from the staging area reaches: mounts below the root, and binds of one and the same disk."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults.conftest import Mount
from tests.filing import Filing, code
from tests.uploading import Client, content_of, reason, sha256, tar_of

CONTENT = content_of(2500)
ARCHIVE = tar_of({"sub": None, "sub/f": CONTENT, "g": b"new"})
Bind = Callable[[Path, Path], None]


@pytest.fixture(params=["tmpfs", "bind"])
def place(request: pytest.FixtureRequest, mount: Mount, bind: Bind, tmp_path: Path) -> Path:
    """A directory in the workspace that is mounted."""
    made = tmp_path / "root/workspace/there"
    made.mkdir(parents=True)
    if request.param == "tmpfs":
        return mount(place=made)
    (tmp_path / "source").mkdir()
    bind(tmp_path / "source", made)
    return made


@pytest.fixture
def client(place: Path, start_daemon: StartDaemon) -> Client:
    return Client(start_daemon("--uploads-part-size", "1000"))


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_file_arrives_there_and_nothing_else(client: Client, place: Path, conflict: str) -> None:
    if conflict != "error":
        (place / "target").write_bytes(b"old")
        (place / "target").chmod(0o600)
    answer = client.put("/workspace/there/target", CONTENT, conflict=conflict, whole_checksum_sha256=sha256(CONTENT))
    assert answer.status == 200, answer.body
    assert client.daemon.term() == 0
    assert [entry.name for entry in place.iterdir()] == ["target"]
    assert (place / "target").read_bytes() == CONTENT
    assert (place / "target").stat().st_mode & 0o777 == (0o644 if conflict == "error" else 0o600)


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_tree_arrives_there_and_nothing_else(client: Client, place: Path, conflict: str) -> None:
    if conflict != "error":
        (place / "target/sub").mkdir(parents=True)
        (place / "target/sub/f").write_bytes(b"old")
        (place / "target/old").write_bytes(b"old")
    answer = client.put_tar("/workspace/there/target", ARCHIVE, conflict=conflict, user="nobody")
    assert answer.status == 200, answer.body
    assert client.daemon.term() == 0
    assert [entry.name for entry in place.iterdir()] == ["target"]
    old = ["old"] if conflict == "merge" else []
    assert sorted(entry.name for entry in (place / "target").iterdir()) == sorted(["g", "sub", *old])
    assert (place / "target/sub/f").read_bytes() == CONTENT
    assert (place / "target/g").stat().st_uid == 65534


def test_a_tree_is_merged_into_the_mounted_directory_itself(client: Client, place: Path) -> None:
    (place / "old").write_bytes(b"old")
    answer = client.put_tar("there", ARCHIVE)
    assert answer.status == 200, answer.body
    assert sorted(entry.name for entry in place.iterdir()) == ["g", "old", "sub"]
    assert (place / "sub/f").read_bytes() == CONTENT


def test_a_mounted_directory_is_not_replaced_as_a_whole(client: Client, place: Path) -> None:
    (place / "old").write_bytes(b"old")
    answer = client.put_tar("there", ARCHIVE, conflict="replace")
    assert answer.status in (200, 409), answer.body
    names = sorted(entry.name for entry in place.iterdir())
    assert names == (["old"] if answer.status == 409 else ["g", "sub"])


def test_a_tree_is_merged_over_a_mount_below_its_target(client: Client, place: Path) -> None:
    (place / "f").write_bytes(b"old")
    archive = tar_of({"there": None, "there/f": CONTENT, "beside": b"x"})
    answer = client.put_tar("/workspace", archive)
    assert answer.status == 200, answer.body
    assert client.daemon.term() == 0
    assert [entry.name for entry in place.iterdir()] == ["f"]
    assert (place / "f").read_bytes() == CONTENT


def test_a_wrong_digest_leaves_nothing_there(client: Client, place: Path) -> None:
    session = client.begin("/workspace/there/target", len(CONTENT))
    client.send(session, CONTENT)
    assert client.complete(session, sha256(b"")).status == 409
    assert list(place.iterdir()) == []


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Path]:
    """A file system whose files cannot be written to, mounted at /huge of the sandbox."""
    place = tmp_path / "root/huge"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "hugetlbfs", "none", place], capture_output=True).returncode:
        pytest.skip("no hugetlbfs here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_what_a_file_system_does_not_take_is_no_fault_of_the_daemon(huge: Path, start_daemon: StartDaemon) -> None:
    client = Client(start_daemon())
    files = Filing(client.daemon, client.daemon.root / "workspace")
    assert code(files.put("/huge/file", b"x")) == (409, "conflict")
    assert code(files.write("/huge/file")) == (409, "conflict")
    assert reason(client.put_tar("/huge/tree", ARCHIVE)) == (409, "conflict")
    assert client.daemon.term() == 0
    assert list(huge.iterdir()) == []
