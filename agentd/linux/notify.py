"""What a service manager wants to hear: sd_notify(3), by hand."""

import os
import socket


def notify(state: str, address: str | None) -> None:
    """Sends lines such as ``READY=1`` to the datagram socket ``address`` (``@`` begins an abstract one).

    None, and a manager that does not listen, are no reason to fail.
    """
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        try:
            one.sendto(state.encode(), socket.MSG_DONTWAIT, target)
        except OSError:
            return


def watchdog_seconds(environment: "os._Environ[str]") -> float | None:
    """How often the manager wants ``WATCHDOG=1``, halved to be safe (sd_watchdog_enabled(3)); None: it does not."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() else None
