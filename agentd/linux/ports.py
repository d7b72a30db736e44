"""Which TCP ports somebody listens on: proc_pid_net(5) (net/tcp, net/tcp6), in the daemon's own network."""

from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"  # of the kernel's TCP states, include/net/tcp_states.h


def listening() -> list[int]:
    """Sorted. Blocks."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == _LISTEN:
                    found.add(int(local.rpartition(":")[2], 16))
    return sorted(found)
