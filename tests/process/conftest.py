"""The places in which daemons of these tests die."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.process.harness.mounts import mounted
from tests.process.harness.site import Site

OTHER_FILE_SYSTEM = Path("/dev/shm")  # a tmpfs, shm_overview(7)


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Path | None]:
    """A directory on another file system than ``tmp_path``, if there is one."""
    if not OTHER_FILE_SYSTEM.is_dir() or OTHER_FILE_SYSTEM.stat().st_dev == tmp_path.stat().st_dev:
        yield None
        return
    place = Path(tempfile.mkdtemp(prefix="agentd-test-", dir=OTHER_FILE_SYSTEM))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def site(start_daemon: StartDaemon, tmp_path: Path, away: Path | None) -> Site:
    place = tmp_path / "workspace"
    place.mkdir()
    return Site(start_daemon, place, away)


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A bind mount in ``tmp_path``."""
    source, place = tmp_path / "source", tmp_path / "bound"
    source.mkdir()
    place.mkdir()
    with mounted(source, place):
        yield place
