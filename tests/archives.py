"""Archives for tests: as the reference client writes them, and as nobody should."""

import io
import os
import stat
import tarfile
from pathlib import Path

from agentd.uploads.archive import ArchiveLimits, Unpacked, unpack

LIMITS = ArchiveLimits(entries=10_000, bytes=1 << 30, depth=100)


def entry(name, kind=tarfile.REGTYPE, mode=0o644, content=b"", link="", **pax):
    """A member as the reference client writes it: no owner, no time. Returns it with its content."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.pax_headers = kind, mode, link, pax
    info.size = len(content)
    return info, content


def folder(name, mode=0o755):
    return entry(name, tarfile.DIRTYPE, mode)


def link(name, target):
    return entry(name, tarfile.SYMTYPE, 0o777, link=target)


def tar(*members, tar_format=tarfile.PAX_FORMAT, end=True):
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w", format=tar_format, errors="surrogateescape")  # noqa: SIM115
    for info, content in members:
        archive.addfile(info, io.BytesIO(content))
    if end:
        archive.close()
    return buffer.getvalue()


def header(name="x", kind=tarfile.REGTYPE, size=0):
    """One bare header block, with whatever size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def checked(block):
    """The header with its checksum put right."""
    total = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    return block[:148] + b"%06o\0 " % total + block[156:]


def pax(*records, kind=tarfile.XHDTYPE):
    body = b"".join(records)
    return header("pax", kind, len(body)) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def record(key, value):
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


END = bytes(1024)


class Place:
    def __init__(self, path: Path) -> None:
        self.tree, self.data = path / "tree", path / "data"
        self.tree.mkdir(mode=0o700)

    def unpack(self, archive, limits=LIMITS, owner=None, stop=None) -> Unpacked:
        self.data.write_bytes(archive)
        data_fd, dir_fd = os.open(self.data, os.O_RDONLY), os.open(self.tree, os.O_RDONLY)
        try:
            return unpack(data_fd, len(archive), dir_fd, limits, owner, stop)
        finally:
            os.close(data_fd)
            os.close(dir_fd)

    def mode(self, name):
        return stat.S_IMODE(os.lstat(self.tree / name).st_mode)

    def names(self):
        return sorted(str(path.relative_to(self.tree)) for path in self.tree.rglob("*"))
