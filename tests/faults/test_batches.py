"""Several files in one form, on a disk of their own: all of them, or none."""

import os
from pathlib import Path

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.faults.conftest import Mount
from tests.uploading import content_of

MIB = 1 << 20
HEAD = 'Content-Disposition: form-data; name="file"; filename="{}"\r\n\r\n'


@pytest.fixture
def place(mount: Mount, tmp_path: Path) -> Path:
    """8 MiB below the root, where no rename from the reserved tree leads."""
    made = tmp_path / "root/workspace/there"
    made.mkdir(parents=True)
    return mount(place=made)


def upload(daemon: Daemon, sizes: dict[str, int]) -> Answer:
    parts = [b"--edge\r\n" + HEAD.format(name).encode() + content_of(size) + b"\r\n" for name, size in sizes.items()]
    path = b'--edge\r\nContent-Disposition: form-data; name="path"\r\n\r\n/workspace/there\r\n--edge--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    return daemon.call("POST", "/blackbox/api/v1/tasks/run/files/upload", b"".join(parts) + path, headers)


def left(daemon: Daemon) -> list[str]:
    return os.listdir(daemon.root / "workspace/.nullspace/writes")


def test_all_arrive_where_no_rename_leads(place: Path, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    answer = upload(daemon, {"a": 3 * MIB, "b": 5, "c": 0})
    assert answer.status == 201, answer.body
    assert {file.name: file.read_bytes() for file in place.iterdir()} == {
        "a": content_of(3 * MIB),
        "b": content_of(5),
        "c": b"",
    }
    assert left(daemon) == []


def test_where_one_does_not_fit_none_arrives_and_it_is_named(place: Path, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    (place / "a").write_bytes(b"old")
    answer = upload(daemon, {"a": 3 * MIB, "b": 7 * MIB, "c": 1})
    assert answer.status == 500
    assert "/workspace/there/b" in answer.json()["error"]
    assert [(file.name, file.read_bytes()) for file in place.iterdir()] == [("a", b"old")]
    assert left(daemon) == []
