"""The daemon's own tree is refused, or left out, whatever it is called and by whatever route.

Each line of `tests.asking` meets each name of the tree; a text that clients send and of which nobody has said whether
it is a path fails here.
"""

import base64
import hashlib
import os
import secrets
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.archives import entry, tar
from tests.asking import ASKS, VARIANTS, Ask, Caller, is_denied, stale, undecided
from tests.conftest import Answer, Daemon
from tests.docs import dialects
from tests.tables import ALONE, PREFIXES, TABLES
from tests.uploading import tar_of

PLACE = "/workspace/.nullspace"
# What must never be in an answer: a name of the tree, which is never asked for, and a content.
NAME = f"hidden-{secrets.token_hex(8)}"
CONTENT = f"content-{secrets.token_hex(8)} ".encode() * 12_000
FOREIGN = 40001

LINES = {
    **{f"{dialect}:{row}:{field}": (dialect, ask) for dialect, t in TABLES.items() for (row, field), ask in t.items()},
    **{f"nullspace:{name}": ("nullspace", ask) for name, ask in VARIANTS.items()},
}


class Place:
    """A sandbox with a daemon, and everything in it that names the tree."""

    def __init__(self, daemon: Daemon, mounts: ExitStack) -> None:
        self.daemon = daemon
        self.top = daemon.root
        self.tree = self.top / PLACE[1:]
        self._mounts = mounts
        self._fill()
        self.before = self.state()

    def _fill(self) -> None:
        (self.tree / "kept").mkdir(mode=0o700)
        (self.tree / "kept" / NAME).touch()
        (self.tree / "kept/file").write_bytes(CONTENT)
        for name in ("links", "given/tree/.nullspace/kept", "made", "beside"):
            (self.top / "workspace" / name).mkdir(parents=True)
        (self.top / "workspace/given/one").write_text("one")
        (self.top / "workspace/given/tree/.nullspace/kept/file").write_text("forged")
        (self.top / "workspace/beside/public").write_text("public")
        links = {"tree": PLACE, "chain": "second", "second": "third", "third": "../beside/../.nullspace"}
        links |= {"above": "/workspace", "foreign": PLACE, "file": f"{PLACE}/kept/file", "inner": f"{PLACE}/kept"}
        for name, target in links.items():
            (self.top / "workspace/links" / name).symlink_to(target)
        os.chown(self.top / "workspace/links/foreign", FOREIGN, FOREIGN, follow_symlinks=False)

    def mount(self, source: str, place: str) -> None:
        """As mount(8) --bind, of this machine's /proc where the source is that."""
        seen = self.top / place
        if os.path.isdir(source):
            seen.mkdir(parents=True)
        else:
            seen.touch()
        if subprocess.run(["mount", "--bind", source, seen], capture_output=True, check=False).returncode:
            pytest.skip("only a privileged process may mount")
        self._mounts.callback(subprocess.run, ["umount", "--lazy", seen], check=True)

    def state(self) -> dict[str, Any]:
        """What must stay as it is: of all that the daemon writes in its tree, only that it is there."""
        kept = [self.tree, self.tree / "token", *sorted((self.tree / "kept").rglob("*")), self.tree / "kept"]
        found: dict[str, Any] = {"names": sorted(os.listdir(self.tree))}
        for path in kept:
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            times = status.st_mtime_ns if path != self.tree else 0
            found[str(path)] = (status.st_ino, status.st_mode, status.st_uid, status.st_nlink, times, content)
            found[f"{path} attributes"] = os.listxattr(path)
        return found

    def trees(self) -> list[str]:
        """Names of the tree itself."""
        pid, tree = self.daemon.pid, str(self.tree)
        held = [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.path.realpath(f"/proc/{pid}/fd/{fd}") == tree]
        assert held
        from_cwd = os.path.relpath(tree, os.path.realpath(f"/proc/{pid}/cwd"))
        return [
            *(PLACE, "/workspace/./.nullspace", "//workspace//.nullspace", "/workspace/beside/../.nullspace"),
            *(f"{PLACE}/", f"{PLACE}/.", f"{PLACE}/../.nullspace", "/../../workspace/.nullspace", f"{PLACE}/kept/.."),
            *(".nullspace", "./.nullspace", "beside/../.nullspace", "../workspace/.nullspace"),
            *("/workspace/links/above/.nullspace", "/workspace/links/above/links/above/.nullspace"),
            *("/mnt/tree", "/mnt/above/.nullspace", "/mnt/above/links/../.nullspace"),
            *(f"/proc/self/root{tree}", f"/proc/{pid}/root{tree}", f"/proc/thread-self/root{tree}"),
            *(f"/proc/{pid}/cwd/{from_cwd}", f"/proc/{pid}/fd/{held[0]}/../.nullspace"),
        ]

    def spellings(self, *, follows: bool) -> list[str]:
        """Names of the tree and of what is in it. follows: a link at the end is followed."""
        links = [f"/workspace/links/{name}" for name in ("tree", "chain", "foreign", "inner", "file")]
        below = ["/kept", "/kept/file", "/new/entry"]
        found = [one.rstrip("/") + rest for one in self.trees() for rest in below]
        found += [*self.trees(), *(f"{link}/kept/file" for link in links[:3]), f"{links[3]}/file"]
        found += [f"{link}/new" for link in links[:4]] + ["/mnt/part", "/mnt/part/file", "/mnt/part/new"]
        found += ["/mnt/part/absent/deep/entry", "/mnt/part/file/entry", "/mnt/file/entry"]
        return [*found, "/mnt/file", *(links if follows else ())]


def leaks(answer: Answer) -> bool:
    """Whether there is anything of the tree in the answer."""
    told = answer.body + repr(answer.headers).encode()
    coded = [base64.b64encode(CONTENT[i:])[:40] for i in range(3)]
    return any(secret in told for secret in (NAME.encode(), CONTENT[:24], *coded))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    here = tmp_path_factory.mktemp("reserved")
    (here / "root").mkdir()
    daemon = Daemon(here / "root", here / "stderr", ("--processes-grace", "0.1", *ALONE), {})
    try:
        with ExitStack() as mounts:
            made = Place(daemon, mounts)
            for source, seen in ((PLACE, "tree"), (f"{PLACE}/kept", "part"), ("/workspace", "above")):
                made.mount(f"{made.top}{source}", f"mnt/{seen}")
            made.mount(f"{made.tree}/kept/file", "mnt/file")
            made.mount("/proc", "proc")
            yield made
            assert made.state() == made.before
    finally:
        assert daemon.term() == 0
    assert not [line for line in daemon.log() if line.get("status", 0) >= 500 or "exception" in line]


@pytest.fixture
def caller(place: Place) -> Iterator[Caller]:
    made = Caller(place.daemon)
    yield made
    made.close()
    assert place.state() == place.before


@pytest.mark.parametrize("dialect", dialects(), ids=lambda dialect: dialect.name)
def test_every_text_that_clients_send_is_known_as_a_path_or_as_none(dialect: Any) -> None:
    table = TABLES.get(dialect.name, {})
    assert undecided(dialect, table) == set(), "decide in tests/asking.py whether these are paths"
    assert stale(dialect, table) == set(), "the code has no such fields"


@pytest.mark.parametrize("line", LINES)
def test_the_tree_is_refused_whatever_it_is_called(place: Place, line: str) -> None:
    dialect, ask = LINES[line]
    caller = Caller(place.daemon, PREFIXES[dialect])
    taken = []
    for path in place.spellings(follows=ask.follows):
        answer = ask(caller, path)
        if not ask.refused(answer) or leaks(answer):
            taken.append((path, answer.status, answer.body[:300]))
    caller.close()
    assert taken == []
    assert place.state() == place.before


ABOVE = ["/workspace", "/", "/mnt/above", "/workspace/links/above", "/workspace/links/../", "/mnt/above/links/above"]
READERS = ["files.list", "entries.list", "files.find", "files.search", "archive.read"]


@pytest.fixture
def asks() -> dict[str, Ask]:
    """Those of the native API, by their row; of several fields the last."""
    return {row: ask for (row, _), ask in TABLES["nullspace"].items()}


@pytest.mark.parametrize("path", ABOVE)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_from_above_leaves_the_tree_out(
    place: Place, caller: Caller, asks: dict[str, Ask], reader: str, path: str
) -> None:
    said = {"ignore": ["proc"]} if reader in ("files.find", "files.search") and path == "/" else {}
    answer = asks[reader](caller, path, **said, **({"depth": 4} if reader.endswith("list") else {}))
    assert answer.status == 200, answer.body
    assert b"given/one" in answer.body
    assert not leaks(answer)


@pytest.mark.parametrize("path", ABOVE)
def test_the_usage_of_what_is_above_does_not_count_the_tree(
    place: Place, caller: Caller, asks: dict[str, Ask], path: str
) -> None:
    answer = asks["files.usage"](caller, path, one_file_system=True)
    assert answer.status == 200, answer.body
    assert max(value for value in answer.json().values() if isinstance(value, int)) < len(CONTENT)


@pytest.mark.parametrize("path", ["/workspace", "/mnt/above"])
@pytest.mark.parametrize(
    "row", ["files.remove", "files.rename:old_path", "files.move:source", "files.rename:new_path", "files.move tree"]
)
def test_what_is_above_is_neither_moved_nor_removed_nor_replaced(
    place: Place, caller: Caller, row: str, path: str
) -> None:
    _, ask = LINES.get(f"nullspace:{row}") or LINES[f"nullspace:{row}:path"]
    answer = ask(caller, path)
    assert answer.status in (403, 409), answer.body
    assert sorted(os.listdir(place.top / "workspace/given")) == ["one", "tree"]


@pytest.mark.parametrize("conflict", ["merge", "replace"])
@pytest.mark.parametrize("path", ["/workspace", "/mnt/above"])
def test_no_archive_is_unpacked_into_the_tree_or_over_it(
    place: Place, caller: Caller, path: str, conflict: str
) -> None:
    members = {".nullspace/kept/file": b"forged", "beside/unpacked": b"new"}
    body = {"kind": "directory_tar", "source_kind": "directory_archive", "target_path": path, "conflict": conflict}
    answer = caller.upload(body, tar_of(members))
    assert answer.status == 403, answer.body
    assert not leaks(answer)


@pytest.mark.parametrize("link", [PLACE, ".nullspace", "../workspace/.nullspace", "/proc/self/root/workspace"])
def test_no_member_goes_by_a_link_of_its_archive(place: Place, caller: Caller, link: str) -> None:
    archive = tar(
        *[entry("way", tarfile.SYMTYPE, 0o777, link=link), entry("way/.nullspace/kept/file", content=b"forged")]
    )
    body = {"kind": "directory_tar", "source_kind": "directory_archive", "target_path": "/workspace/made/unpacked"}
    answer = caller.upload(body, archive)
    assert answer.status in (403, 422), answer.body
    assert not (place.top / "workspace/made/unpacked").exists()


def test_a_copy_of_what_is_above_lacks_the_tree(place: Place, caller: Caller, asks: dict[str, Ask]) -> None:
    answer = caller.post("/files/copy", {"source": "/workspace", "target": "/copy"})
    assert answer.status == 200, answer.body
    copied = sorted(str(path.relative_to(place.top / "copy")) for path in (place.top / "copy").rglob("*"))
    assert "beside/public" in copied
    assert not [path for path in copied if path.startswith(".nullspace")]
    assert caller.post("/files/remove", {"path": "/copy"}).status == 204


@pytest.mark.parametrize("path", ["/workspace", "/mnt/above"])
@pytest.mark.parametrize("act", ["copy", "move"])
def test_nothing_is_merged_into_the_tree(place: Place, caller: Caller, act: str, path: str) -> None:
    source = place.top / "given"
    shutil.copytree(place.top / "workspace/given/tree", source, dirs_exist_ok=True)
    answer = caller.post(f"/files/{act}", {"source": "/given", "target": path, "conflict": "merge"})
    assert answer.status in (200, 403, 409), answer.body
    assert place.state() == place.before
    shutil.rmtree(source, ignore_errors=True)


def test_a_watch_from_above_does_not_tell_of_the_tree(place: Place) -> None:
    caller, told = Caller(place.daemon), list[Answer]()
    query = {"path": "/workspace", "recursive": "true"}
    watcher = threading.Thread(target=lambda: told.append(caller.query("GET", "/watch", query, lines=2)))
    watcher.start()
    while watcher.is_alive():
        for _ in range(2):
            (place.tree / "kept" / f"{NAME}-new").touch()
            (place.tree / "kept" / f"{NAME}-new").unlink()
        os.utime(place.tree / "kept", ns=(0, place.before[str(place.tree / "kept")][4]))
        (place.top / "workspace/beside/public").touch()
        watcher.join(0.05)
    caller.close()
    assert b"public" in told[0].body
    assert not leaks(told[0])


def test_the_tree_is_known_when_a_directory_above_it_was_moved(place: Place) -> None:
    caller, moved = Caller(place.daemon), place.top / "elsewhere"
    (place.top / "workspace").rename(moved)
    try:
        paths = ["/elsewhere/.nullspace", "/elsewhere/.nullspace/kept/file", "/elsewhere/links/../.nullspace/new"]
        alone = [ask for (row, _), ask in ASKS.items() if not row.endswith(("rename", "move", "copy", "link"))]
        lines = [(path, ask) for ask in alone for path in paths if ask.refused is is_denied]
        taken = [(path, answer.body) for path, ask in lines if not is_denied(answer := ask(caller, path))]
    finally:
        moved.rename(place.top / "workspace")
        caller.close()
    assert taken == []
    assert place.state() == place.before


@pytest.fixture
def repository(place: Place) -> Iterator[Path]:
    """The workspace as one of root's, with everything added that git would add by itself."""
    here = place.top / "workspace"
    subprocess.run(["git", "init", "--quiet", here], check=True)
    yield here
    shutil.rmtree(here / ".git")


def test_git_in_the_workspace_does_not_see_the_tree(
    place: Place, caller: Caller, asks: dict[str, Ask], repository: Path
) -> None:
    status = asks["git.status"](caller, "/workspace")
    assert b"public" in status.body
    author = {"author_name": "a", "author_email": "a@b.c"}
    added = caller.post("/git/commit", {"path": "/workspace", "message": "all", "add_all": True, **author})
    assert added.status == 200, added.body
    tracked = subprocess.run(["git", "-C", repository, "ls-files"], capture_output=True, check=True).stdout.split()
    assert b"beside/public" in tracked
    assert not [name for name in tracked if name.startswith(b".nullspace")]
    assert b".nullspace/" not in status.body.replace(b"given/tree/.nullspace/", b"")
