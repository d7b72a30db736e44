"""Where the daemon listens, in its own words and as a service manager hands it over."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.http import listen


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working one, since the path of a socket is short (unix(7): 107 bytes)."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def handed() -> Iterator[list[tuple[str, int]]]:
    """Copies of a listening TCP socket and one of the kind unix, and a pipe, as a service manager names them."""
    with ExitStack() as closing:
        tcp = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = closing.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"\0agentd-test-{os.getpid()}")
        unix.listen()
        pipe = os.pipe()
        yield [("web", tcp.detach()), ("stored", pipe[0]), ("stored", pipe[1]), ("local", unix.detach())]
        for fd in pipe:
            os.close(fd)


def test_an_address_is_bound_with_a_port_that_was_free() -> None:
    (bound,) = listen.bind("127.0.0.1:0")
    with bound:
        assert listen.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert listen.is_local(bound)


def test_ipv6_is_told_from_its_port_by_brackets() -> None:
    (bound,) = listen.bind("[::1]:0")
    with bound:
        assert listen.url(bound) == f"http://[::1]:{bound.getsockname()[1]}"
        assert listen.is_local(bound)


def test_every_address_of_the_machine_is_not_local() -> None:
    (bound,) = listen.bind("0.0.0.0:0")
    with bound:
        assert not listen.is_local(bound)


@pytest.mark.parametrize(
    "address", ["", "8811", ":8811", "host:", "host:port", "host:65536", "fd:", "fd:x", "unix:", f"fd:{1 << 80}"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        listen.bind(address)


def test_a_unix_socket_is_for_its_owner_alone_and_goes_with_the_daemon(directory: Path) -> None:
    (bound,) = listen.bind("unix:socket")
    with bound:
        assert (directory / "socket").stat().st_mode & 0o777 == 0o600
        assert listen.url(bound) == "unix:socket"
        file = listen.file_of("unix:socket")
        listen.remove("unix:socket", file)
    assert not (directory / "socket").exists()
    listen.remove("unix:socket", file)


def test_the_socket_of_a_daemon_that_has_come_meanwhile_stays(directory: Path) -> None:
    listen.bind("unix:socket")[0].close()
    file = listen.file_of("unix:socket")
    (other,) = listen.bind("unix:socket")
    with other:
        listen.remove("unix:socket", file)
        assert (directory / "socket").exists()


@pytest.mark.usefixtures("directory")
def test_one_that_is_too_busy_to_answer_is_not_waited_for() -> None:
    (bound,) = listen.bind("unix:socket")
    with bound, ExitStack() as closing:
        bound.listen(0)
        for _ in range(4):
            one = closing.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            one.connect_ex("socket")
        with pytest.raises(OSError, match="in use"):
            listen.bind("unix:socket")


def test_a_connection_is_nothing_to_listen_at() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match="is a connection"):
        listen.bind(f"fd:{ours.fileno()}")


@pytest.mark.usefixtures("directory")
def test_a_socket_that_nobody_listens_at_any_more_is_replaced() -> None:
    listen.bind("unix:socket")[0].close()
    (again,) = listen.bind("unix:socket")
    again.close()


@pytest.mark.parametrize("kind", ["socket", "file"])
def test_what_belongs_to_somebody_stays(directory: Path, kind: str) -> None:
    with ExitStack() as closing:
        if kind == "file":
            (directory / "socket").write_text("kept")
        else:
            closing.enter_context(listen.bind("unix:socket")[0]).listen()
        with pytest.raises(OSError, match="in use"):
            listen.bind("unix:socket")


def test_all_sockets_that_are_listened_at_are_taken_from_the_service_manager(handed: list[tuple[str, int]]) -> None:
    tcp, unix = listen.bind("systemd", handed)
    with tcp, unix:
        assert (tcp.fileno(), unix.fileno()) == (handed[0][1], handed[3][1])
        assert (tcp.get_inheritable(), unix.get_inheritable()) == (False, False)
        assert listen.url(unix) == f"unix:@agentd-test-{os.getpid()}"


def test_one_of_them_is_taken_by_its_name(handed: list[tuple[str, int]]) -> None:
    (unix,) = listen.bind("systemd:local", handed)
    with unix, socket.socket(fileno=handed[0][1]):
        assert unix.family == socket.AF_UNIX


@pytest.mark.parametrize(
    ("address", "what"), [("systemd", "no listening socket;"), ("systemd:stored", "named stored;")]
)
def test_nothing_to_listen_at_is_said(handed: list[tuple[str, int]], address: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        listen.bind(address, handed[1:3])
    for _, fd in (handed[0], handed[3]):
        os.close(fd)


def test_a_number_of_an_fd_is_taken_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        (bound,) = listen.bind(f"fd:{os.dup(given.fileno())}")
        with bound:
            assert bound.getsockname() == given.getsockname()


@pytest.mark.parametrize("kind", [(socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_NETLINK, socket.SOCK_RAW)])
def test_an_fd_that_is_nothing_to_listen_at_is_left_as_it_is(kind: tuple[int, int]) -> None:
    with socket.socket(*kind) as given:
        with pytest.raises(ValueError, match="is not a stream socket"):
            listen.bind(f"fd:{given.fileno()}")
        assert os.fstat(given.fileno())


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("address", ["unix:socket", "unix:./socket", "fd", "127.0.0.1", "localhost"])
def test_what_is_listened_at_already_is_refused_and_left_as_it_is(address: str) -> None:
    with listen.bind("127.0.0.1:0")[0] as tcp, listen.bind("unix:socket")[0] as unix:
        kinds = {"fd": f"fd:{tcp.fileno()}", **dict.fromkeys(("127.0.0.1", "localhost"), f"{address}:{port(tcp)}")}
        with pytest.raises(ValueError, match="already"):
            listen.bind(kinds.get(address, address), (), (tcp, unix))
        assert os.fstat(tcp.fileno())
        unix.listen()
        with socket.socket(socket.AF_UNIX) as one:
            one.connect("socket")


def port(bound: socket.socket) -> int:
    found: int = bound.getsockname()[1]
    return found


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_a_socket_without_an_address_is_refused(family: int) -> None:
    with socket.socket(family) as given:
        with pytest.raises(ValueError, match="without an address"):
            listen.bind(f"fd:{given.fileno()}")
        assert os.fstat(given.fileno())
