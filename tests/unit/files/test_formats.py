"""What stands in an archive, also where numbers take more room than they usually have."""

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from agentd.files import formats
from agentd.files.formats import Format, Member, Plain, Tar, Zip


@pytest.fixture
def status(tmp_path: Path) -> os.stat_result:
    (tmp_path / "file").touch(mode=0o640)
    os.utime(tmp_path / "file", (0, 1_000_000_000))
    return (tmp_path / "file").stat()


def written(form: Format, *members: tuple[Member, list[bytes]]) -> bytes:
    parts = []
    for member, pieces in members:
        parts += [form.begin(member), *map(form.content, pieces), form.finish()]
    parts += form.end()
    form.close()
    return b"".join(parts)


def test_a_tar_is_padded_to_whole_records(status: os.stat_result) -> None:
    body = written(Tar(Plain()), (Member("file", status, 3, content=None), [b"a", b"bc"]))
    assert len(body) % tarfile.RECORDSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.extractfile("file").read() == b"abc"


@pytest.mark.parametrize("content", [b"", b"short", b"long" * 1000, os.urandom(1000)])
def test_a_zip_tells_the_sizes_of_small_files_at_once(status: os.stat_result, content: bytes) -> None:
    body = written(Zip(6), (Member("file", status, len(content), content=content), []))
    archive = zipfile.ZipFile(io.BytesIO(body))
    found = archive.getinfo("file")
    assert (archive.read("file"), found.file_size, found.flag_bits & 8) == (content, len(content), 0)
    assert (found.date_time, found.external_attr >> 16) == ((2001, 9, 9, 1, 46, 40), 0o100640)


def test_a_zip_tells_the_sizes_of_large_files_behind_them(status: os.stat_result) -> None:
    body = written(Zip(6), (Member("file", status, 6, content=None), [b"abc", b"def"]))
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert (archive.read("file"), archive.getinfo("file").flag_bits & 8) == (b"abcdef", 8)


def test_a_zip_of_what_32_bits_cannot_count_is_read_by_others(
    status: os.stat_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_LARGE", 4)
    body = written(
        Zip(6),
        (Member("wide", status, 6, content=None), [b"abc", b"def"]),
        (Member("after", status, 1, content=b"x"), []),
    )
    extra = body[30 + len("wide") :]
    assert struct.unpack_from("<2H", extra) == (1, 16)
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert archive.testzip() is None
    assert (archive.read("wide"), archive.read("after")) == (b"abcdef", b"x")


def test_a_zip_may_begin_behind_4_gib_and_have_many_members(status: os.stat_result, tmp_path: Path) -> None:
    form, count = Zip(1), 66_000
    form._offset = 5 << 30  # as if so much had been written, which takes long
    with (tmp_path / "zip").open("wb") as file:
        file.seek(form._offset)
        for number in range(count):
            file.write(form.begin(Member(str(number), status, content=b"")) + form.finish())
        file.writelines(form.end())
    form.close()
    with zipfile.ZipFile(tmp_path / "zip") as archive:
        assert len(archive.namelist()) == count
        assert (archive.read("0"), archive.getinfo("0").header_offset) == (b"", 5 << 30)
    (tmp_path / "zip").unlink()


@pytest.mark.parametrize("seconds", [-(10**15), -1, 0, 10**10, 10**15])
@pytest.mark.parametrize("form", [lambda: Tar(Plain()), lambda: Zip(6)])
def test_any_time_that_a_file_has_can_be_written(form, seconds: int, status: os.stat_result) -> None:
    odd = os.stat_result((*status[:8], seconds, seconds))
    assert written(form(), (Member("file", odd, 1, content=b"x"), []))


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 120 + "b", "é" * 90, "byte\udcff", "new\nline"])
def test_any_name_comes_back(name: str, status: os.stat_result) -> None:
    body = written(Tar(Plain()), (Member(name, status, 1, content=b"x"), []))
    with tarfile.open(fileobj=io.BytesIO(body), errors="surrogateescape") as tar:
        assert tar.getnames() == [name]
    archive = zipfile.ZipFile(io.BytesIO(written(Zip(6), (Member(name, status, 1, content=b"x"), []))))
    assert [archive.read(found) for found in archive.infolist()] == [b"x"]
