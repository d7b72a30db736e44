"""What is mounted where, as /proc/self/mountinfo has it. Blocking."""

import os

from agentd.errors import Conflict
from agentd.linux.reserved import unescaped


def check_no_mount_below(fd: int, path: str) -> None:
    """Conflict, with its name, where something is mounted in the directory ``fd``, at any depth.

    path: of the directory, in sandbox terms. What a mount namespace that is not the daemon's has there is not seen.
    """
    above = os.fsencode(os.readlink(f"/proc/self/fd/{fd}")).rstrip(b"/") + b"/"
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            place = unescaped(line.split(b" ", 5)[4])
            if place.startswith(above):
                name = os.path.join(path, os.fsdecode(place.removeprefix(above)))
                raise Conflict(f"{path!r} has a mount in it, {name!r}: unmount that and repeat", path=path)
