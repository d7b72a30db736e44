"""A directory as an archive: whole, unpackable by others, and cut off rather than wrong."""

import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import IO

import pytest

from agentd.files.formats import PIECE
from tests.api.test_listing import fds_below
from tests.api.trees import Reader, make
from tests.conftest import Daemon
from tests.process.harness.waiting import eventually

FORMATS = ["tar", "tar.gz", "tar.zst", "zip"]
ODD = ["new\nline", "é", "byte\udcff", "x" * 200, "-", "a\\b"]


def unpack(body: bytes, form: str, target: Path) -> None:
    """By the system's own tools."""
    target.mkdir()
    (file := target.parent / "archive").write_bytes(body)
    if form == "zip":
        code = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall('.')"
        subprocess.run([sys.executable, "-c", code, file], cwd=target, check=True)
        assert zipfile.ZipFile(file).testzip() is None
        return
    if form == "tar.zst":
        import backports.zstd

        file.write_bytes(backports.zstd.decompress(body))
    subprocess.run(["tar", "-xz" if form == "tar.gz" else "-x", "-f", file], cwd=target, check=True)


def contents(top: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(path, name), top): Path(path, name).read_bytes()
        for path, _, names in os.walk(top)
        for name in names
    }


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_unpacks_to_what_was_there(reader: Reader, tmp_path: Path, form: str) -> None:
    make(reader.here, "a/b/c", "empty/", *([] if form == "zip" else ODD))
    (reader.here / "large").write_bytes(os.urandom(1000) * 3000)
    (reader.here / "none").touch()
    answer = reader.get("archive", format=form)
    assert answer.headers["content-disposition"].endswith(f"{reader.here.name}.{form}")
    unpack(answer.body, form, tmp_path / "unpacked")
    assert contents(tmp_path / "unpacked") == contents(reader.here)
    assert (tmp_path / "unpacked/empty").is_dir()


def test_a_tar_keeps_modes_times_owners_and_links(reader: Reader) -> None:
    make(reader.here, "dir/file")
    os.chown(reader.here / "dir/file", 12345, 0)
    os.chmod(reader.here / "dir/file", 0o4751)
    os.utime(reader.here / "dir/file", (1, 1_000_000_000))
    (reader.here / "link").symlink_to("/nowhere\udcff")
    os.link(reader.here / "dir/file", reader.here / "same")
    tar = reader.tar()
    assert tar.getnames() == ["dir", "dir/file", "link", "same"]
    file, link, same = (tar.getmember(name) for name in ("dir/file", "link", "same"))
    assert (file.mode, file.mtime, file.uid, file.gname) == (
        0o751 if file.mode == 0o751 else 0o4751,
        10**9,
        12345,
        "root",
    )
    assert (link.linkname, same.type, same.linkname) == ("/nowhere\udcff", tarfile.LNKTYPE, "dir/file")


def test_a_zip_keeps_modes_and_links_as_unix_has_them(reader: Reader) -> None:
    make(reader.here, "file", "byte\udcff")
    os.chmod(reader.here / "file", 0o640)
    (reader.here / "link").symlink_to("file")
    archive = zipfile.ZipFile(io.BytesIO(reader.get("archive", format="zip").body))
    assert archive.getinfo("file").external_attr >> 16 == 0o100640
    assert (archive.getinfo("link").external_attr >> 28, archive.read("link")) == (0o12, b"file")
    assert len(archive.namelist()) == 3


def test_sockets_devices_and_what_is_ignored_are_left_out(reader: Reader) -> None:
    make(reader.here, "a.py", "a.pyc", "node_modules/x", "keep/a.pyc")
    os.mkfifo(reader.here / "fifo")
    names = reader.tar(ignore=["*.pyc", "node_modules/", "!/keep/*.pyc"]).getnames()
    assert names == ["a.py", "keep", "keep/a.pyc"]


def test_the_reserved_tree_is_in_no_archive(shared: Daemon) -> None:
    body = shared.call("GET", "/v1/archive?path=/").body
    assert b"workspace" in body
    assert b".nullspace" not in body
    assert (shared.root / "workspace/.nullspace/token").read_bytes().strip() not in body
    assert shared.call("GET", "/v1/archive?path=/workspace/.nullspace").status == 403


@pytest.mark.parametrize(("path", "status"), [("file", 409), ("none", 404)])
def test_what_is_no_directory_has_no_archive(reader: Reader, path: str, status: int) -> None:
    make(reader.here, "file")
    assert reader.get("archive", path=f"{reader.path}/{path}").status == status


def test_an_archive_goes_back_up_as_it_came(reader: Reader) -> None:
    make(reader.here, "from/a/b/c", "from/empty/", *(f"from/{name}" for name in ODD))
    os.chmod(reader.here / "from/a/b", 0o750)
    (reader.here / "from/link").symlink_to("a/b")
    os.link(reader.here / "from/a/b/c", reader.here / "from/same")
    body = reader.get("archive", path=f"{reader.path}/from").body
    upload(reader, body, f"{reader.path}/to")
    assert reader.get("archive", path=f"{reader.path}/to").status == 200
    ours, theirs = (contents(reader.here / name) for name in ("to", "from"))
    assert ours == theirs
    assert (reader.here / "to/same").samefile(reader.here / "to/a/b/c")
    assert (reader.here / "to/a/b").stat().st_mode == (reader.here / "from/a/b").stat().st_mode
    assert os.readlink(reader.here / "to/link") == "a/b"


def upload(reader: Reader, body: bytes, target: str) -> None:
    asked = {"kind": "directory_tar", "source_kind": "directory_archive", "archive_format": "tar", "conflict": "error"}
    asked |= {"target_path": target, "content_length": len(body), "checksum_algorithm": "sha256"}
    session = reader.daemon.call("POST", "/v1/uploads", asked, {"Idempotency-Key": "k"}).json()["session"]
    path, size = f"/v1/uploads/{session['upload_id']}", session["part_size"]
    for number in range(session["part_count"]):
        answer = reader.daemon.call("PUT", f"{path}/parts/{number}", body[number * size : (number + 1) * size])
        assert answer.status == 200, answer.body
    answer = reader.daemon.call("POST", f"{path}/complete", {}, {"Idempotency-Key": "c"})
    assert answer.status == 200, answer.body


def start(reader: Reader, form: str = "tar") -> tuple[socket.socket, IO[bytes]]:
    """A request of whose answer some is read."""
    connection = reader.daemon.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    head = f"GET /v1/archive?path={reader.path}&format={form} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    connection.sendall(f"{head}Authorization: Bearer {reader.daemon.token}\r\n\r\n".encode())
    file = connection.makefile("rb")
    assert file.read(5000).startswith(b"HTTP/1.1 200")
    return connection, file


def test_a_file_that_grows_is_cut_at_the_size_it_had(reader: Reader) -> None:
    with (reader.here / "log").open("wb", buffering=0) as log:
        stop = threading.Event()
        log.write(bytes(3 * PIECE))
        thread = threading.Thread(target=lambda: [log.write(b"x" * 1000) for _ in iter(stop.is_set, True)])
        thread.start()
        try:
            assert reader.tar().getmember("log").size >= 3 * PIECE
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_file_that_shrinks_cuts_the_archive_off(reader: Reader, form: str) -> None:
    with (reader.here / "a").open("wb") as file:
        file.write(os.urandom(30 * PIECE))
    connection, answer = start(reader, form)
    os.truncate(reader.here / "a", 5 * PIECE)
    with connection, answer, pytest.raises(ConnectionError):
        answer.read()
    assert reader.daemon.log()[-1]["code"] == "storage_failed"


def test_a_client_that_leaves_ends_the_archive(reader: Reader) -> None:
    (reader.here / "a").write_bytes(bytes(30 * PIECE))
    connection, answer = start(reader)
    assert fds_below(reader) > 0
    answer.close()
    connection.close()
    assert eventually(lambda: fds_below(reader) == 0)
