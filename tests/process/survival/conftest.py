"""A service manager that keeps file descriptors, and daemons of its."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.process.harness.manager import Managed, Manager
from tests.process.harness.waiting import eventually
from tests.processes import alive


@pytest.fixture
def manager() -> Iterator[Manager]:
    with closing(Manager()) as manager:
        yield manager


@pytest.fixture
def manage(manager: Manager, tmp_path: Path) -> Iterator[Callable[..., Managed]]:
    """``manage("--flag")``: a daemon of the manager, ended after the test with all that it has in its store."""
    started: list[Managed] = []

    def manage(*flags: str) -> Managed:
        started.append(Managed(tmp_path, manager, *flags))
        return started[0]

    yield manage
    for daemon in started:
        daemon.restart("--processes-grace", "0.1")
        daemon.term()
        assert eventually(lambda root=daemon.root: alive(root) == [])  # type: ignore[misc]


@pytest.fixture
def daemon(manager: Manager, tmp_path: Path) -> Iterator[Managed]:
    daemon = Managed(tmp_path, manager)
    yield daemon
    daemon.term()
    assert eventually(lambda: alive(daemon.root) == [])
    assert manager.names() == []
