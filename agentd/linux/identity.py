"""Who somebody is in the sandbox, and one thread acting as them.

The kernel keeps credentials per thread. `acting_as` changes those that decide about files (file system uid and gid,
supplementary groups, capabilities), and no others: the thread cannot be signalled by the user it acts as.
"""

import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from agentd.errors import PermissionDenied, UnknownUser
from agentd.linux import syscalls
from agentd.linux.oserrors import os_errors

_INVALID_ID = 2**32 - 1
# Of capabilities(7), as masks.
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER = 1 << 0, 1 << 1, 1 << 3
_KILL, _SETGID, _SETUID = 1 << 5, 1 << 6, 1 << 7
_OVER_OTHERS = CAP_CHOWN | _KILL | _SETGID | _SETUID
_FILE_LIMIT = 16 * 1024 * 1024
ONE_USER = "the daemon is not root with CAP_CHOWN, CAP_KILL, CAP_SETGID and CAP_SETUID"

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """A user as the kernel and the password file know them. home, shell: absolute, in sandbox terms."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str = "/bin/sh"


class Users:
    """The users and groups of a root: its etc/passwd and etc/group (passwd(5), group(5)), else the machine's.

    Lines that make no sense are passed over, the first of two entries counts, and the files are read again when they
    changed. Blocking.
    """

    def __init__(self, root: "_Directory") -> None:
        self._root = root
        self._passwd = _Table("passwd", _account)
        self._group = _Table("group", _group)

    def find(self, user: str) -> Identity:
        """The user of that name, else of that number. UnknownUser; a number needs no entry."""
        for account in self._passwd.entries(self._root):
            if account.name == user:
                return self._with_groups(account)
        number = _id(user)
        if number is not None:
            return self.of(number)
        raise UnknownUser(f"no user {user!r} in the sandbox; give a name of its password file, or a uid", user=user)

    def of(self, uid: int) -> Identity:
        """Who has this uid. Without an entry: the group of the same number, no others, and /workspace as home."""
        for account in self._passwd.entries(self._root):
            if account.uid == uid:
                return self._with_groups(account)
        return Identity(uid, uid, (), str(uid), "/workspace")

    def name(self, uid: int) -> str:
        """The user's name, or the number as text."""
        return next((account.name for account in self._passwd.entries(self._root) if account.uid == uid), str(uid))

    def group(self, gid: int) -> str:
        """The group's name, or the number as text."""
        return next((group.name for group in self._group.entries(self._root) if group.gid == gid), str(gid))

    def group_id(self, group: str) -> int:
        """The number of the group of that name, else of that number. UnknownUser; a number needs no entry."""
        for entry in self._group.entries(self._root):
            if entry.name == group:
                return entry.gid
        number = _id(group)
        if number is None:
            raise UnknownUser(f"no group {group!r} in the sandbox; give one of its group file, or a gid", group=group)
        return number

    def _with_groups(self, account: "_Account") -> Identity:
        others = {group.gid for group in self._group.entries(self._root) if account.name in group.members}
        groups = (account.gid, *sorted(others - {account.gid}))
        return Identity(account.uid, account.gid, groups, account.name, account.home, account.shell)


def may(capabilities: int) -> bool:
    """Whether this thread has all of these capabilities. Being root says nothing: containers take them away."""
    return syscalls.capget().effective & capabilities == capabilities


def acts_as_others() -> bool:
    """Whether the daemon is root with the capabilities to become somebody else, to give them files and terminals, and
    to end what runs as them. In a container without them, and under a user of its own, it is one user and no other."""
    return os.geteuid() == 0 and syscalls.capget().permitted & _OVER_OTHERS == _OVER_OTHERS and _can_set_groups()


@functools.cache
def _can_set_groups() -> bool:
    """Not in a user namespace that was made without a right to it (user_namespaces(7), /proc/PID/setgroups)."""
    try:
        with open("/proc/self/setgroups") as file:
            return file.read().strip() != "deny"
    except OSError:
        return True


@contextmanager
def acting_as(identity: Identity) -> Iterator[None]:
    """For its extent the kernel decides what this thread may do to files as it decides for ``identity``.

    Blocking code only: an ``await`` inside would let other code of the thread act so, and a thread that is started
    inside would stay that user for good. May be nested. PermissionDenied where the daemon cannot (see
    `acts_as_others`); its own user is fine then, and changes nothing. A thread that cannot return to its own rights
    ends the process.
    """
    if not acts_as_others():
        if identity.uid != os.geteuid():
            raise refusal(identity, ONE_USER)
        yield
        return
    before = _Credentials.current()
    # Root's power is its capabilities; anybody else has none, CAP_SYS_PTRACE and CAP_SYS_RESOURCE included.
    theirs = before.capabilities if identity.uid == 0 else before.capabilities._replace(effective=0)
    try:
        try:
            _Credentials(identity.uid, identity.gid, frozenset(identity.groups), theirs).assume()
        except OSError as error:
            raise refusal(identity, f"the kernel refuses ({error.strerror})") from error
        yield
    finally:
        restored = False
        try:
            before.assume()
            restored = True
        finally:
            if not restored:
                os._exit(70)


@contextmanager
def decided_as(identity: Identity, act: str, path: str) -> Iterator[None]:
    """`acting_as`, where the kernel's refusal says whose rights were too few to ``act`` ("open", ...) on ``path``."""
    with acting_as(identity):
        try:
            yield
        except PermissionError as error:
            raise PermissionDenied(
                f"cannot {act} {path!r}: user {identity.name!r}, whose rights apply (the request's user, or whoever "
                "lends a link on the way), may not; give that user access, or name the file without the link",
                path=path,
                user=identity.name,
            ) from error


class Change(NamedTuple):
    """What a program's ids are to become; -1 and None leave the daemon's."""

    uid: int
    gid: int
    groups: tuple[int, ...] | None


def change_to(identity: Identity) -> Change:
    """From what the daemon is. PermissionDenied as `acting_as`."""
    if acts_as_others():
        return Change(identity.uid, identity.gid, identity.groups)
    if identity.uid != os.geteuid():
        raise refusal(identity, ONE_USER)
    return Change(-1, -1, None)


class _Credentials(msgspec.Struct, frozen=True):
    """What the kernel asks for when this thread touches a file."""

    uid: int
    gid: int
    groups: frozenset[int]
    capabilities: syscalls.Capabilities

    @classmethod
    def current(cls) -> "_Credentials":
        return cls(syscalls.setfsuid(-1), syscalls.setfsgid(-1), frozenset(os.getgroups()), syscalls.capget())

    def assume(self) -> None:
        """All of it, or an OSError. The kernel moves some capabilities along with the uid, so they are set last."""
        permitted = self.capabilities.permitted
        syscalls.capset(self.capabilities._replace(effective=permitted))
        if frozenset(os.getgroups()) != self.groups:
            syscalls.setgroups(sorted(self.groups))
        syscalls.setfsgid(self.gid)
        syscalls.setfsuid(self.uid)
        syscalls.capset(self.capabilities)
        if _Credentials.current() != self:
            raise PermissionError(errno.EPERM, "the ids or capabilities did not change")


def refusal(identity: Identity, reason: str) -> PermissionDenied:
    """Why nobody can be made to act, or a program to run, as that user."""
    return PermissionDenied(
        f"cannot act as user {identity.name!r} (uid {identity.uid}): {reason}; use the daemon's own user",
        user=identity.name,
    )


class _Directory(Protocol):
    fd: int


class _Account(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str
    shell: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: frozenset[str]


class _Table(Generic[T]):
    """The entries of one file of etc, read again when it is another file or was changed."""

    def __init__(self, name: str, parse: Callable[[list[str]], T | None]) -> None:
        self._name = name
        self._parse = parse
        self._read: tuple[object, tuple[T, ...]] = (None, ())

    def entries(self, root: _Directory) -> tuple[T, ...]:
        fd = self._open(root)
        if fd is None:
            return ()
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            known, entries = self._read
            if known != version:
                text = file.read(_FILE_LIMIT).decode("utf-8", "surrogateescape")
                entries = tuple(self._parsed(text.split("\n")))
                self._read = (version, entries)
            return entries

    def _open(self, root: _Directory) -> int | None:
        path = f"/etc/{self._name}"
        with os_errors("read", path):
            return _open_beneath(root.fd, self._name) or _open_regular(path, os.O_RDONLY)

    def _parsed(self, lines: list[str]) -> Iterator[T]:
        for line in lines:
            entry = self._parse(line.split(":"))
            if entry is not None:
                yield entry


def _open_beneath(root_fd: int, name: str) -> int | None:
    """etc/NAME of the root; no links, which would need the very users that are looked up."""
    try:
        etc = os.open("etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=etc)
    finally:
        os.close(etc)


def _open_regular(path: str, flags: int, dir_fd: int | None = None) -> int | None:
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO):
            return None
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _account(fields: list[str]) -> _Account | None:
    if len(fields) != 7 or not _is_name(fields[0]):
        return None
    uid, gid = _id(fields[2]), _id(fields[3])
    if uid is None or gid is None:
        return None
    home, shell = fields[5], fields[6].strip()
    return _Account(fields[0], uid, gid, home if home[:1] == "/" else "/", shell if shell[:1] == "/" else "/bin/sh")


def _group(fields: list[str]) -> _Group | None:
    if len(fields) != 4 or not _is_name(fields[0]):
        return None
    gid = _id(fields[2])
    return None if gid is None else _Group(fields[0], gid, frozenset(fields[3].strip().split(",")))


def _is_name(text: str) -> bool:
    """No comment, no blank, none of NIS's ``+name`` and ``-name`` lines."""
    return bool(text) and text[0] not in "#+-" and text.isprintable() and not any(map(str.isspace, text))


def _id(text: str) -> int | None:
    """A uid or gid; 2**32-1 is none, because the kernel takes it for "leave it as it is"."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return int(text) if int(text) < _INVALID_ID else None
