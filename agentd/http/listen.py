"""Where the daemon listens: ``HOST:PORT`` (``[::1]:8811`` for IPv6), ``unix:PATH``, ``systemd`` for every socket that a
service manager listens at and hands over (sd_listen_fds(3)), ``systemd:NAME`` for those of that name, or ``fd:N``."""

import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress

_FD_DIGITS = 9
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def bind(
    address: str, handed: Sequence[tuple[str, int]] = (), taken: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """Bound stream sockets, one but for ``systemd``. ValueError says what is wrong with the address, OSError why it is
    not to be had.

    handed: names and fds from a service manager; those that are listened at become the sockets' own. taken: those of
    other addresses, which this may not be again. A unix socket gets mode 0600; a file that an earlier daemon left is
    replaced once nobody answers at it.
    """
    names, fds = [one.getsockname() for one in taken], [one.fileno() for one in taken]
    # Nobody answers at ours yet.
    files = {file_of(f"unix:{name}") for name in names if isinstance(name, str)}
    found = [] if file_of(address) in files - {None} else _bound(address, handed)
    if not found or any(one.getsockname() in names for one in found):
        for one in found:
            (one.detach if one.fileno() in fds else one.close)()
        raise ValueError("it is listened at already, by an address before it")
    return found


def _bound(address: str, handed: Sequence[tuple[str, int]]) -> list[socket.socket]:
    kind, _, rest = address.partition(":")
    if kind == "systemd":
        return _handed(rest, handed)
    if kind == "unix":
        return [_bind_unix(rest)]
    if kind == "fd":
        if not rest.isdecimal() or len(rest) > _FD_DIGITS:
            raise ValueError(f"{address!r} is not fd:N with a number")
        return [_adopt(int(rest))]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT, unix:PATH, systemd or fd:N")
    family, kind_of, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind_of, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return [bound]


def _handed(name: str, handed: Sequence[tuple[str, int]]) -> list[socket.socket]:
    wanted = [fd for given, fd in handed if name in ("", given) and _is_listener(fd)]
    if not wanted:
        which = f"no listening socket named {name}" if name else "no listening socket"
        raise ValueError(f"the service manager has handed over {which}; is the socket unit started?")
    return [_adopt(fd) for fd in wanted]


def _is_listener(fd: int) -> bool:
    """Whether it is a stream socket that accepts connections; there may be other things of the daemon's beside them."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    one = socket.socket(fileno=fd)
    try:
        return one.type == socket.SOCK_STREAM and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    finally:
        one.detach()


def _adopt(fd: int) -> socket.socket:
    adopted = socket.socket(fileno=fd)
    if adopted.type != socket.SOCK_STREAM or adopted.family not in _FAMILIES:
        adopted.detach()
        raise ValueError(f"fd {fd} is not a stream socket of IPv4, IPv6 or the kind unix")
    with suppress(OSError):
        adopted.getpeername()
        adopted.detach()
        raise ValueError(f"fd {fd} is a connection, not a socket that others connect to")
    name = adopted.getsockname()
    if not name or name[1:2] == (0,):
        adopted.detach()
        raise ValueError(f"fd {fd} is a socket without an address, which nobody finds")
    adopted.set_inheritable(False)
    return adopted


def _bind_unix(path: str) -> socket.socket:
    if not path:
        raise ValueError("unix: without a path")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        try:
            bound.bind(path)
        except OSError:
            if not _is_stale(path):
                raise
            os.unlink(path)
            bound.bind(path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(umask)
    return bound


def _is_stale(path: str) -> bool:
    """Whether a socket is there that nobody listens at."""
    if not os.path.lexists(path) or not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        try:
            one.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass  # somebody does, who has more to answer than he can take
        return False


File = tuple[int, int, int]


def file_of(address: str) -> File | None:
    """Of a unix socket the file that is there now; None for other addresses."""
    with suppress(OSError):
        if address.startswith("unix:"):
            found = os.lstat(address.removeprefix("unix:"))
            return found.st_dev, found.st_ino, found.st_mtime_ns
    return None


def remove(address: str, file: File | None) -> None:
    """Takes away the file that `bind` has made for a unix socket, as `file_of` told it then, and not that of another
    daemon, which has come meanwhile."""
    if file is not None and file_of(address) == file:
        with suppress(FileNotFoundError):
            os.unlink(address.removeprefix("unix:"))


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return bound.family == socket.AF_UNIX or ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url(bound: socket.socket) -> str:
    """``http://127.0.0.1:8811`` or ``unix:/run/agentd.sock``."""
    where = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{where if isinstance(where, str) else '@' + where[1:].decode()}"
    host, port = where[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"
