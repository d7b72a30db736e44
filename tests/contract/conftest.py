"""The published clients against a real daemon: every test runs with both versions, each sync and async.

One daemon serves most tests of a session; each has a directory in it to itself (``place``, and ``here`` from outside).
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.contract import sdk
from tests.contract.clients import CURRENT, OLD, Client, Driver, installed
from tests.contract.relay import Relay, relay_to

MIB = 1 << 20
ALICE = 4001
STYLES = ("sync", "async")

MakeFile = Callable[[int], Path]


@pytest.fixture(scope="session")
def current_driver() -> Iterator[Driver]:
    try:
        found = version("nullspace-sdk")
    except PackageNotFoundError:
        pytest.skip("nullspace-sdk is not installed: it comes with the extra 'contract'")
    assert found == CURRENT
    yield from driving(None, CURRENT)


@pytest.fixture(scope="session")
def old_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with installed(OLD, beside(tmp_path_factory)) as packages:
        yield from driving(packages, OLD)


def beside(factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of the run share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def sdk_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """The ``daytona`` SDK; see `tests.contract.sdk`."""
    with sdk.driven(beside(tmp_path_factory)) as driver:
        yield driver


def driving(packages: Path | None, expected: str) -> Iterator[Driver]:
    driver = Driver(packages)
    assert driver.receive().version == expected
    yield driver
    driver.close()


def start(directory: Path, *flags: str) -> Daemon:
    """A daemon whose sandbox has the user alice."""
    root = directory / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nalice:x:{ALICE}:{ALICE}::/home/alice:/bin/sh\n")
    (root / "etc/group").write_text(f"root:x:0:\nalice:x:{ALICE}:\n")
    (root / "home/alice").mkdir(parents=True)
    os.chown(root / "home/alice", ALICE, ALICE)
    return Daemon(root, directory / "stderr", flags, {})


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon that most tests share: parts of 1 MiB, uploads of at most 2 GiB, a quota of 1 GiB."""
    directory = tmp_path_factory.mktemp("sandbox")
    limits = ("--uploads-max-upload-bytes", "2GiB", "--uploads-quota-bytes", "1GiB")
    daemon = start(directory, "--uploads-part-size", "1MiB", *limits)
    yield daemon
    daemon.kill9()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose uploads expire at once when they rest."""
    directory = tmp_path_factory.mktemp("hasty")
    daemon = start(directory, "--uploads-lifetime", "0.2")
    yield daemon
    daemon.kill9()
    shutil.rmtree(directory)


@pytest.fixture(
    params=[
        *(f"{CURRENT}-{style}" for style in STYLES),
        *(pytest.param(f"{OLD}-{style}", marks=pytest.mark.exhaustive) for style in STYLES),
    ]
)
def client(request: pytest.FixtureRequest, sandbox: Daemon) -> Client:
    """A published client, pointed at `sandbox`."""
    version, _, style = request.param.partition("-")
    driver = request.getfixturevalue("current_driver" if version == CURRENT else "old_driver")
    return Client(driver, version, style, sandbox.url, sandbox.token)


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A directory of the sandbox that no other test uses; it does not exist yet."""
    return f"/workspace/{tmp_path.name}"


@pytest.fixture
def here(sandbox: Daemon, place: str) -> Iterator[Path]:
    """`place`, as the test sees it."""
    directory = sandbox.root / place[1:]
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_large_left(tmp_path: Path) -> Iterator[None]:
    """What was uploaded goes; a daemon's log stays for the reader. Asked for first, so that daemons have ended."""
    yield
    for name in ("root", "source"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[MakeFile]:
    """``make_file(size)``: a local file of so many random bytes."""
    made: list[Path] = []

    def make(size: int) -> Path:
        made.append(tmp_path / f"source-{len(made)}.bin")
        made[-1].write_bytes(random.Random(size).randbytes(size))
        return made[-1]

    yield make
    for path in made:
        path.unlink()


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """64 MiB."""
    path = tmp_path_factory.mktemp("big") / "big.bin"
    path.write_bytes(random.Random(64).randbytes(64 * MIB))
    yield path
    path.unlink()


@pytest.fixture
def relay(sandbox: Daemon) -> Iterator[Relay]:
    """A network to `sandbox` that can be broken."""
    with relay_to(sandbox.port) as relay:
        yield relay
