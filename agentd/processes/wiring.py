"""The pipes of a process that brings no `terms.Wires`."""

import os
from contextlib import suppress

from agentd.core.eventlog import Stream
from agentd.errors import Unavailable
from agentd.linux.identity import Identity
from agentd.processes.terms import Wires


def pipes(owner: Identity, null: int, *, fed: bool) -> Wires:
    """They are the owner's, who may open them again as /dev/stdout and its like. null: fd of /dev/null, the input of
    what is not ``fed``. Unavailable where there are no more fds."""
    fds: list[int] = []
    try:
        for _ in range(3 if fed else 2):
            fds += os.pipe2(os.O_CLOEXEC)
            with suppress(OSError):  # then the start is refused, or they do without
                os.fchown(fds[-1], owner.uid, owner.gid)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise Unavailable("no file descriptor is left for the process; end something and repeat") from None
    (out, out_w, err, err_w), rest = fds[:4], fds[4:]
    stdin, feed = rest or (null, -1)
    for fd in (out, err, *rest[1:]):
        os.set_blocking(fd, False)
    return Wires({0: stdin, 1: out_w, 2: err_w}, {Stream.STDOUT: out, Stream.STDERR: err}, feed)


def discard(wires: Wires | None, null: int) -> None:
    """Closes all of its fds but ``null``: they are ours where the start failed."""
    if wires is not None:
        for fd in {*wires.child.values(), *wires.outputs.values(), wires.input} - {-1, null}:
            os.close(fd)
