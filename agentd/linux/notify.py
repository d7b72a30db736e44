"""What a service manager wants to hear (sd_notify(3)) and what it keeps for the next daemon, by hand."""

import logging
import os
import re
import secrets
import socket
from array import array
from collections.abc import Iterable

from agentd.linux.descriptor import Descriptor
from agentd.linux.threads import Pool

# One thread, so that what is put and taken out again is so in that order.
STORE = Pool("store", 1)
_PATIENCE = 1.0

_log = logging.getLogger("agentd")


def notify(state: str, address: str | None) -> None:
    """Sends lines such as ``READY=1`` to the datagram socket ``address`` (``@`` begins an abstract one).

    None, and a manager that does not listen, are no reason to fail.
    """
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        try:
            one.sendto(os.fsencode(state), socket.MSG_DONTWAIT, _target(address))
        except OSError:
            return


def watchdog_seconds(environment: "os._Environ[str]") -> float | None:
    """How often the manager wants ``WATCHDOG=1``, halved to be safe (sd_watchdog_enabled(3)); None: it does not."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() else None


class FdStore:
    """Fds that the manager holds: they stay open when the daemon dies, and the next one is handed them.

    address: that of `notify`; None where there is no manager. handed: what the manager has handed over, by name: `name`
    tells what is of the store, and what a socket that it listens at. Whether the manager has room for more
    (``FileDescriptorStoreMax=``) it does not say.
    """

    _NAME = re.compile(r"agentd-[a-z][0-9a-f]{8}(-[a-z])?")

    def __init__(self, address: str | None, handed: Iterable[tuple[str, int]] = ()) -> None:
        self._address = address
        self._found: dict[str, list[Descriptor]] = {}
        for name, fd in handed:
            if self._NAME.fullmatch(name):
                self._found.setdefault(name, []).append(Descriptor(fd))

    @property
    def is_there(self) -> bool:
        return bool(self._address)

    @staticmethod
    def name(kind: str) -> str:
        """A new one, for a thing of this kind, a letter. ``NAME-x`` with any letter belongs to it, too."""
        return f"agentd-{kind}{secrets.token_hex(4)}"

    def names(self, kind: str) -> list[str]:
        """Of what was handed over of this kind and not claimed yet."""
        return [name for name in self._found if name.startswith(f"agentd-{kind}")]

    def claim(self, name: str) -> list[Descriptor]:
        """What was handed over under this name, in no order; it stays in the store. Once."""
        return self._found.pop(name, [])

    def put(self, name: str, fds: Iterable[int]) -> None:
        """Adds copies of these fds under a name. Blocks, not for long.

        They are not taken out when they are at their end, as they are otherwise (``FDPOLL=0``).
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
        self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", rights)

    def remove(self, *names: str) -> None:
        """Whatever is in the store under these names. Blocks, not for long."""
        for name in names:
            self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", [])

    def _send(self, state: str, rights: list[tuple[int, int, "array[int]"]]) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.settimeout(_PATIENCE)
            try:
                one.connect(_target(self._address))
                one.sendmsg([state.encode()], rights)
            except OSError as error:
                _log.warning("the service manager's store of fds cannot be reached: %s", error.strerror or error)


def _target(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
