"""What a sandbox process left in the way lends its own rights to a call, and never the daemon's."""

import os
import stat
from pathlib import Path

import pytest

from tests.asking import ASKS, Caller
from tests.conftest import Daemon
from tests.filing import Filing, code

BOB, EVE = 40001, 40002


@pytest.fixture
def private(shared: Daemon, home: Path) -> Path:
    """A directory of root's that nobody else enters, with a file; and bob's links to both in bob's home."""
    place = shared.root / f"private-{home.name}"
    place.mkdir(mode=0o700)
    (place / "hidden").write_text("secret")
    for name, target in (("way", f"/{place.name}"), ("file", f"/{place.name}/hidden")):
        (home / name).symlink_to(target)
        os.chown(home / name, BOB, BOB, follow_symlinks=False)
    return place


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    return Filing(shared, home)


CWDS = [key for key in ASKS if key[1] == "cwd"]


@pytest.mark.parametrize("key", CWDS, ids=lambda key: key[0])
@pytest.mark.parametrize("user", [None, str(EVE)])
def test_nothing_starts_in_a_directory_that_the_links_owner_may_not_enter(
    shared: Daemon, home: Path, private: Path, key: tuple[str, str], user: str | None
) -> None:
    os.chown(private, EVE if user else 0, -1)
    caller = Caller(shared)
    answer = ASKS[key](caller, f"/workspace/{home.name}/way", user=user)
    caller.close()
    assert answer.status == 403, answer.body
    assert b"hidden" not in answer.body


@pytest.mark.parametrize("tree", [True, False])
def test_a_copy_of_a_link_lends_no_more_than_the_link(files: Filing, home: Path, private: Path, tree: bool) -> None:
    (home / "links").mkdir()
    (home / "file").rename(home / "links/file")
    os.chown(home / "links", BOB, BOB)
    roots = files.home.parent.parent / f"roots-{home.name}"
    roots.mkdir()
    copied = files.copy("links" if tree else "links/file", f"/{roots.name}/copy")
    assert copied.status == 200, copied.body
    copy = f"/{roots.name}/copy{'/file' if tree else ''}"
    assert stat.S_ISLNK((files.daemon.root / copy[1:]).lstat().st_mode)
    assert code(files.op("read", copy)) == (403, "permission_denied")
    assert code(files.write(copy)) == (403, "permission_denied")
    assert (private / "hidden").read_text() == "secret"
