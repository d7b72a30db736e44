"""How much room a tree takes, and digests of files."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import xxhash

from tests.api.trees import Reader, make
from tests.conftest import Daemon


def test_usage_counts_as_du_does_each_file_once(reader: Reader) -> None:
    make(reader.here, "a/b/c", "d")
    (reader.here / "sparse").touch()
    os.truncate(reader.here / "sparse", 1 << 30)
    os.link(reader.here / "d", reader.here / "a/same")
    (reader.here / "link").symlink_to("nowhere")
    found = reader.post("usage").json()
    du = subprocess.run(["du", "-s", "-B1", reader.here], capture_output=True, check=True).stdout.split()[0]
    assert found == {
        "apparent_bytes": len("a/b/c") + len("d") + (1 << 30),
        "allocated_bytes": int(du),
        "files": 3,
        "directories": 3,
        "links": 1,
        "others": 0,
        "unread": 0,
    }


def test_the_reserved_tree_takes_no_room(shared: Daemon) -> None:
    def size(top: Path) -> int:
        found = [path.lstat() for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
        return sum({status.st_ino: status.st_size for status in found}.values())

    found = shared.call("POST", "/v1/files/usage", {"path": "/"}).json()
    assert found["apparent_bytes"] == size(shared.root) - size(shared.root / "workspace/.nullspace")


@pytest.mark.parametrize("size", [0, 1, (3 << 20) + 1])
def test_digests_are_those_of_the_content(reader: Reader, size: int) -> None:
    content = os.urandom(size)
    (reader.here / "file").write_bytes(content)
    algorithms = ["sha256", "xxh3_128", "md5"]
    found = reader.post("checksum", path=f"{reader.path}/file", algorithms=algorithms).json()
    assert found == {
        "path": f"{reader.path}/file",
        "size": size,
        "digests": {
            "sha256": hashlib.sha256(content).hexdigest(),
            "xxh3_128": xxhash.xxh3_128_hexdigest(content),
            "md5": hashlib.md5(content).hexdigest(),
        },
    }


def test_without_an_algorithm_it_is_sha256(reader: Reader) -> None:
    make(reader.here, "file")
    answer = reader.post("checksum", path=f"{reader.path}/file").json()
    assert answer["digests"] == {"sha256": hashlib.sha256(b"file").hexdigest()}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 409),
        ({"path": "none"}, 404),
        ({"algorithms": ["crc"]}, 400),
        ({"path": "/workspace/.nullspace/token"}, 403),
    ],
)
def test_what_has_no_digest_is_refused(reader: Reader, body: dict[str, object], status: int) -> None:
    assert reader.post("checksum", **body).status == status
