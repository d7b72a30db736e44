"""Trees whose directories are not writable, and files of others, by daemons that lack rights which root usually has."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import entry, folder, tar
from tests.conftest import Daemon
from tests.filing import Filing, facts
from tests.process.test_one_user import CAPLESS
from tests.uploading import Client

USER = 64124
# It may read the interpreter and the checkout wherever they are, and nothing more.
READING = tuple(f"--{which}=-all,+dac_read_search" for which in ("inh-caps", "ambient-caps", "bounding-set"))
# As in a container that drops a single capability, as one that drops all, in a user namespace that knows nobody else,
# and as a service under a user of its own.
WITHOUT = {
    "access to everything": ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"),
    "any capability": CAPLESS,
    "other users": ("unshare", "--user", "--map-root-user"),
    "root": ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *READING),
}
CLOSED = tar(folder("ro", 0o555), entry("ro/f", content=b"f"), folder("none", 0), entry("none/f"))
PLAIN = tar(entry("new", content=b"new"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes capabilities from root")


@pytest.fixture(scope="module", params=list(WITHOUT))
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    class Lacking(Daemon):
        prefix = WITHOUT[request.param]

    place = tmp_path_factory.mktemp("lacking")
    (place / "root").mkdir()
    if request.param == "root":
        os.chown(place / "root", USER, USER)
    try:
        started = Lacking(place / "root", place / "log", (), {})
    except RuntimeError:
        if request.param != "other users":
            raise
        pytest.skip("there are no user namespaces here")
    yield Client(started)
    assert started.term() == 0


@pytest.fixture
def home(client: Client) -> Path:
    """A directory of the daemon's own."""
    made = client.daemon.root / "workspace" / secrets.token_hex(8)
    made.mkdir()
    own = (client.daemon.root / "workspace/.nullspace").stat()
    os.chown(made, own.st_uid, own.st_gid)
    return made


def put(client: Client, target: Path, archive: bytes, conflict: str) -> None:
    answer = client.put_tar(f"/{target.relative_to(client.daemon.root)}", archive, conflict=conflict)
    assert answer.status == 200, answer.body


def test_directories_that_are_not_writable_are_merged(client: Client, home: Path) -> None:
    put(client, home / "there", tar(folder("ro")), "error")
    put(client, home / "there", tar(folder("ro", 0o555), entry("ro/g")), "merge")
    assert facts(home / "there/ro")[2] == "0755"
    put(client, home, CLOSED, "merge")
    assert [facts(home / name)[2] for name in ("ro", "none")] == ["0555", "0000"]
    assert (home / "ro/f").read_bytes() == b"f"


def test_a_directory_that_is_not_writable_is_replaced_and_hands_on_its_mode(client: Client, home: Path) -> None:
    own = home.stat()
    (home / "t").mkdir()
    os.chown(home / "t", own.st_uid, own.st_gid)
    (home / "t").chmod(0o555)
    for archive in (CLOSED, PLAIN):
        put(client, home / "t", archive, "replace")
        assert facts(home / "t") == (own.st_uid, own.st_gid, "0555")
    assert os.listdir(home / "t") == ["new"]


def test_of_a_replaced_tree_nothing_stays_whatever_its_modes(client: Client, home: Path) -> None:
    put(client, home / "t", CLOSED, "error")
    put(client, home / "t", PLAIN, "replace")
    client.daemon.term()
    client.daemon.restart()
    staged = client.daemon.root / "workspace/.nullspace/uploads/v1"
    assert {path.name for path in staged.glob("*/*")} == {"journal"}
    assert list(staged.glob(".*")) == []


@pytest.mark.parametrize("way", ["upload", "write"])
def test_a_file_of_somebody_else_is_replaced(client: Client, home: Path, way: str) -> None:
    (home / "file").write_bytes(b"old")
    os.chown(home / "file", USER + 1, USER + 1)
    files = Filing(client.daemon, home)
    answer = client.put(files.path("file"), b"new") if way == "upload" else files.put("file", b"new")
    assert answer.status in (200, 204), answer.body
    assert (home / "file").read_bytes() == b"new"


def test_a_link_is_made(client: Client, home: Path) -> None:
    files = Filing(client.daemon, home)
    assert files.op("link", "link", target="elsewhere").status == 200
    assert os.readlink(home / "link") == "elsewhere"
