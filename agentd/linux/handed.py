"""What a service manager hands over with the start: sockets that it listens at, and fds that an earlier daemon has put
into its store (sd_listen_fds_with_names(3))."""

import os
from collections.abc import MutableMapping
from typing import NamedTuple

_FIRST = 3


class Handed(NamedTuple):
    """One open fd. name: as the manager has it, ``unknown`` where it gave none."""

    name: str
    fd: int


def take_handed(environment: MutableMapping[str, str]) -> list[Handed]:
    """All of it, close-on-exec from now on, where it is meant for this process; the variables are gone afterwards, so
    that it can be taken once. ValueError for variables that make no sense."""
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()):
        return []
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS is {count!r}, which is no number")
    fds = range(_FIRST, _FIRST + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    named = names.split(":") if names else []
    return [Handed(name, fd) for name, fd in zip([*named, *["unknown"] * (len(fds) - len(named))], fds, strict=False)]
