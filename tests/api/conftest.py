"""One daemon for all the tests of a module; each test has a directory of its own below its root."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.alone import FLAGS
from tests.api.trees import Reader
from tests.conftest import Daemon
from tests.uploading import Client

PART = 1000  # bytes
MOST = 100_000  # bytes of an upload


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("shared")
    (place / "root").mkdir()
    flags = ("--uploads-part-size", str(PART), "--uploads-max-upload-bytes", str(MOST))
    daemon = Daemon(place / "root", place / "stderr", flags, {})
    yield daemon
    assert daemon.term() == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """In stand-alone mode. Nothing in it may have failed unforeseen."""
    place = tmp_path_factory.mktemp("alone")
    (place / "root").mkdir()
    daemon = Daemon(place / "root", place / "stderr", FLAGS, {})
    yield daemon
    assert daemon.term() == 0
    assert not [line for line in daemon.log() if line.get("status", 0) == 500 or "exception" in line]


@pytest.fixture
def client(shared: Daemon) -> Client:
    return Client(shared)


@pytest.fixture
def home(shared: Daemon, tmp_path: Path) -> Path:
    """A directory in the workspace, of this test alone."""
    made = shared.root / "workspace" / tmp_path.name
    made.mkdir()
    return made


@pytest.fixture
def target(home: Path) -> str:
    """A path in the sandbox at which nothing is."""
    return f"/workspace/{home.name}/target"


@pytest.fixture
def reader(shared: Daemon, home: Path) -> Iterator[Reader]:
    """The routes that read many entries, for the test's own directory, which may be too deep or large to stay."""
    yield Reader(shared, home)
    subprocess.run(["rm", "-rf", home], check=True)
