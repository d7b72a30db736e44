"""What a service manager is told arrives, whatever is in it."""

import socket

from agentd.linux.notify import notify


def test_an_address_that_is_not_utf_8_is_told_as_it_is() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # a name that the kernel makes up (unix(7))
        notify("STATUS=serving on unix:/\udcff", "@" + manager.getsockname()[1:].decode())
        assert manager.recv(100) == b"STATUS=serving on unix:/\xff"


def test_a_manager_that_is_gone_is_no_failure() -> None:
    notify("READY=1", "@agentd-test-nobody-listens-here")
