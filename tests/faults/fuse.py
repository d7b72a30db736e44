"""A FUSE volume of a test's own (linux/fuse.h): a directory seen through a mount that refuses what it is told to.

No library: the kernel's requests are read from /dev/fuse and answered one at a time, as far as these tests need it.
"""

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOKUP, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME, OPEN = 1, 3, 4, 9, 10, 11, 12, 14
READ, WRITE, STATFS, RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 15, 16, 17, 18, 25, 26, 27, 28, 29
FSYNC, CREATE, RENAME2 = 20, 35, 45
FORGETS = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET: nobody waits for an answer
SIZE_GIVEN, MODE_OR_OWNER_GIVEN = 8, 7
EXCHANGE = 2
LARGEST = 1 << 17


class Volume:
    """refused: the operations answered with EPERM; SETATTR is refused for modes and owners alone. unknown: those
    answered with ENOSYS, which many servers have no code for. fixed: the uid that all belongs to, with modes that all
    share, whatever is set (as on vfat, CIFS, object stores)."""

    def __init__(
        self, source: Path, fd: int, refused: tuple[int, ...], unknown: tuple[int, ...], fixed: int | None
    ) -> None:
        self._source = source
        self._fd = fd
        self._refused = refused
        self._fixed = fixed
        self._names = {1: ""}
        self._acts: dict[int, Callable[[int, bytes], bytes]] = {
            INIT: lambda node, body: struct.pack("=4I2H2I2H8I", 7, 31, LARGEST, 0, 8, 8, LARGEST, 1, 0, 0, *[0] * 8),
            LOOKUP: lambda node, body: self._entry(self._below(node, body)),
            GETATTR: lambda node, body: self._status(node),
            SETATTR: self._set,
            MKDIR: lambda node, body: self._made(node, body[8:]),
            UNLINK: lambda node, body: os.unlink(self._path(self._below(node, body))) or b"",
            RMDIR: lambda node, body: os.rmdir(self._path(self._below(node, body))) or b"",
            OPEN: lambda node, body: struct.pack("=QII", 0, 0, 0),
            OPENDIR: lambda node, body: struct.pack("=QII", 0, 0, 0),
            READ: self._read,
            WRITE: self._write,
            STATFS: lambda node, body: struct.pack(
                "=5Q4I6I", 1 << 20, 1 << 19, 1 << 19, 1, 1, 4096, 255, 4096, *[0] * 7
            ),
            READDIR: self._list,
            RENAME: lambda node, body: self._renamed(node, struct.unpack_from("=Q", body)[0], body[8:]),
            RENAME2: self._renamed_unless_exchanged,
            CREATE: lambda node, body: self._created(node, body[16:]),
            **dict.fromkeys((RELEASE, FLUSH, RELEASEDIR), lambda node, body: b""),
        }
        for operation in unknown:
            del self._acts[operation]

    def serve(self) -> None:
        """Until it is unmounted."""
        while True:
            try:
                request = os.read(self._fd, LARGEST + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, operation, unique, node = struct.unpack_from("=IIQQ", request)
            if operation in FORGETS:
                continue
            try:
                failed, answer = 0, self._answer(operation, node, request[40:])
            except OSError as error:
                failed, answer = error.errno or errno.EIO, b""
            os.write(self._fd, struct.pack("=IiQ", 16 + len(answer), -failed, unique) + answer)

    def _answer(self, operation: int, node: int, body: bytes) -> bytes:
        if operation in self._refused and operation != SETATTR:
            raise OSError(errno.EPERM, "refused")
        act = self._acts.get(operation)
        if act is None:
            raise OSError(errno.ENOSYS, "unknown")
        return act(node, body)

    def _path(self, name: str) -> Path:
        return self._source / name

    def _below(self, node: int, name: bytes) -> str:
        return os.path.join(self._names[node], os.fsdecode(name.rstrip(b"\0")))

    def _entry(self, name: str) -> bytes:
        node = self._path(name).lstat().st_ino
        self._names[node] = name
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(name)

    def _attributes(self, name: str) -> bytes:
        found = self._path(name).lstat()
        times = [moment // 10**9 for moment in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
        parts = [moment % 10**9 for moment in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
        mode, uid, gid = found.st_mode, found.st_uid, found.st_gid
        if self._fixed is not None:
            mode, uid, gid = stat.S_IFMT(mode) | (0o755 if stat.S_ISDIR(mode) else 0o644), self._fixed, self._fixed
        owner = (mode, found.st_nlink, uid, gid, 0, 4096, 0)
        return struct.pack("=6Q10I", found.st_ino, found.st_size, found.st_blocks, *times, *parts, *owner)

    def _status(self, node: int) -> bytes:
        return struct.pack("=QII", 0, 0, 0) + self._attributes(self._names[node])

    def _set(self, node: int, body: bytes) -> bytes:
        given, _, _, size = struct.unpack_from("=IIQQ", body)
        if given & MODE_OR_OWNER_GIVEN and SETATTR in self._refused:
            raise OSError(errno.EPERM, "refused")
        if given & SIZE_GIVEN:
            os.truncate(self._path(self._names[node]), size)
        return self._status(node)

    def _made(self, node: int, name: bytes) -> bytes:
        self._path(self._below(node, name)).mkdir(mode=0o700)
        return self._entry(self._below(node, name))

    def _created(self, node: int, name: bytes) -> bytes:
        path = self._below(node, name)
        self._path(path).touch(mode=0o666, exist_ok=False)
        return self._entry(path) + struct.pack("=QII", 0, 0, 0)

    def _renamed_unless_exchanged(self, node: int, body: bytes) -> bytes:
        target, flags = struct.unpack_from("=QI", body)
        if flags & EXCHANGE:
            raise OSError(errno.EINVAL, "unknown")
        return self._renamed(node, target, body[16:])

    def _renamed(self, node: int, target: int, names: bytes) -> bytes:
        old, new = names.rstrip(b"\0").split(b"\0")
        source, place = self._below(node, old), self._below(target, new)
        os.rename(self._path(source), self._path(place))
        below = {one: name for one, name in self._names.items() if f"{name}/".startswith(f"{source}/")}
        self._names |= {one: place + name[len(source) :] for one, name in below.items()}
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        return self._path(self._names[node]).read_bytes()[offset : offset + size]

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        with self._path(self._names[node]).open("r+b") as file:
            file.seek(offset)
            file.write(body[40 : 40 + size])
        return struct.pack("=II", size, 0)

    def _list(self, node: int, body: bytes) -> bytes:
        _, offset, _ = struct.unpack_from("=QQI", body)
        names = sorted(os.listdir(self._path(self._names[node])))
        entries = [
            struct.pack("=QQII", place, place, len(os.fsencode(name)), 0) + os.fsencode(name)
            for place, name in enumerate(names, 1)
        ]
        return b"".join(entry + bytes(-len(entry) % 8) for entry in entries[offset:])


@contextmanager
def volume(
    source: Path, place: Path, *refused: int, unknown: tuple[int, ...] = (), fixed: int | None = None
) -> Iterator[None]:
    """Shows ``source`` at ``place``; the rest as for `Volume`."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions".encode()
    if libc.mount(b"test", os.fsencode(place), b"fuse", 0, options):
        os.close(fd)
        raise OSError(ctypes.get_errno(), "no FUSE here")
    server = threading.Thread(target=Volume(source, fd, refused, unknown, fixed).serve, daemon=True)
    server.start()
    try:
        yield
    finally:
        libc.umount2(os.fsencode(place), 2)  # MNT_DETACH
        server.join(20)
        os.close(fd)
