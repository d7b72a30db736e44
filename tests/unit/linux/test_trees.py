"""Deleting, merging and syncing trees that may be deep, hostile or half done."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from agentd.errors import Conflict, PathReserved, PermissionDenied, TargetConflict
from agentd.linux.trees import merge, remove, sync_tree
from tests.descriptors import nothing_stays_open


class Crash(Exception):
    pass


class Tree:
    """A directory with an open descriptor."""

    def __init__(self, path):
        self.path = path
        path.mkdir(exist_ok=True)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def write(self, **files):
        """`a__b="text"` writes a/b; a value that starts with "->" makes a link; None a directory."""
        for name, content in files.items():
            path = self.path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir()
            elif content.startswith("->"):
                path.symlink_to(content[2:])
            else:
                path.write_text(content)

    def read(self):
        """{path: content, "->target", or None for a directory}"""
        return {str(path.relative_to(self.path)): self._content(path) for path in sorted(self.path.rglob("*"))}

    def _content(self, path):
        if path.is_symlink():
            return f"->{os.readlink(path)}"
        return None if path.is_dir() else path.read_text()

    def deep(self, levels, name="d"):
        """A chain of directories longer than any path may be, with a file in every tenth."""
        fd = os.dup(self.fd)
        for level in range(levels):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            if level % 10 == 0:
                os.close(os.open("f", os.O_CREAT, dir_fd=below))
            os.close(fd)
            fd = below
        os.close(fd)

    def mode(self, name):
        return stat.S_IMODE((self.path / name).lstat().st_mode)


@pytest.fixture
def trees(tmp_path):
    """`trees("a")` is a Tree in a directory of its own; whatever becomes of it is deleted in the end."""
    made = []

    def new(name):
        made.append(Tree(tmp_path / name))
        return made[-1]

    yield new
    for tree in made:
        os.close(tree.fd)
    subprocess.run(["rm", "-rf", *(tree.path for tree in made)], check=True)


@pytest.fixture
def fast(trees, mounted):
    """As `trees`, in memory: for trees that a disk takes long to make."""
    mounted(trees("fast").path)
    return lambda name: trees(f"fast/{name}")


@pytest.fixture
def mounted():
    """`mounted(path)` mounts a small tmpfs on a directory; `mounted(path, other)` binds another there."""
    paths = []

    def mount(path, other=None):
        words = ["--bind", other] if other else ["-t", "tmpfs", "-o", "size=64m", "tmpfs"]
        if subprocess.run(["mount", *words, path]).returncode:
            pytest.skip("may not mount")
        paths.append(path)

    yield mount
    for path in reversed(paths):
        subprocess.run(["umount", "--lazy", path], check=True)


def nothing():
    pass


def crash_after(count):
    """An `after_entry` that dies at the count-th call."""
    calls = iter(range(count - 1))

    def step():
        if next(calls, None) is None:
            raise Crash

    return step


NOBODY = 65534


def as_nobody(code, *fds):
    """Run code, which finds the descriptors in `fds`, as a user without rights; returns what went wrong."""
    become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); fds = [int(word) for word in sys.argv[1:]]"
    script = f"import os, sys; from agentd.linux.trees import *; {become}; {code}"
    command = [sys.executable, "-c", script, *map(str, fds)]
    return subprocess.run(command, pass_fds=fds, capture_output=True).stderr


# remove


def test_remove_deletes_whole_trees_files_and_links_but_not_what_links_point_to(trees):
    tree = trees("t")
    tree.write(dir__a__b="1", dir__l="->../kept", dir__up="->..", file="2", link="->kept", kept__x="3")
    for name in ("dir", "file", "link", "not there"):
        remove(tree.fd, name)
    assert tree.read() == {"kept": None, "kept/x": "3"}


def test_remove_needs_neither_stack_nor_descriptors_for_depth(fast):
    tree = fast("t")
    tree.deep(10_000)
    os.mkdir("d/wide", dir_fd=tree.fd)
    for number in range(300):
        os.mkdir(f"d/wide/{number}", dir_fd=tree.fd)
        os.mkdir(f"d/wide/{number}/x", dir_fd=tree.fd)
    remove(tree.fd, "d")
    assert tree.read() == {}


def test_remove_that_was_interrupted_is_finished_by_the_next(trees):
    tree = trees("t")
    tree.deep(50)
    with pytest.raises(Crash):
        remove(tree.fd, "d", crash_after(20))
    assert tree.read() != {}
    remove(tree.fd, "d")
    assert tree.read() == {}


def test_two_removals_at_once_do_not_disturb_each_other(trees):
    tree = trees("t")
    for number in range(200):
        tree.write(**{f"d__{number}__x__y": "1"})
    threads = [threading.Thread(target=remove, args=(tree.fd, "d")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree.read() == {}


def test_remove_leaves_other_mounts_alone_and_says_so(trees, mounted):
    tree, other = trees("t"), trees("other")
    other.write(precious="1")
    tree.write(d__a="1", d__m=None, d__deep__n=None, d__z__y="2")
    mounted(tree.path / "d/m", other.path)
    with pytest.raises(OSError, match="busy"):
        remove(tree.fd, "d")
    assert tree.read() == {"d": None, "d/m": None, "d/m/precious": "1"}


def test_remove_spares_the_rest_of_nothing_when_one_file_cannot_go(trees):
    tree = trees("t")
    tree.write(d__a__stuck="1", d__a__b__c="2", d__e="3")
    if subprocess.run(["chattr", "+i", tree.path / "d/a/stuck"], capture_output=True).returncode:
        pytest.skip("no immutable files here")
    try:
        with pytest.raises(PermissionError):
            remove(tree.fd, "d")
    finally:
        subprocess.run(["chattr", "-i", tree.path / "d/a/stuck"], check=True)
    assert tree.read() == {"d": None, "d/a": None, "d/a/stuck": "1"}


def test_remove_takes_a_tree_from_a_user_who_holds_on_to_it(trees):
    tree = trees("t")
    tree.write(d__sub="1")
    os.chown(tree.path / "d", NOBODY, NOBODY)
    held = os.open(tree.path / "d", os.O_RDONLY)

    def add():
        refusals.append(b"Permission" in as_nobody("os.open('new', os.O_CREAT, dir_fd=fds[0])", held))

    refusals = []
    remove(tree.fd, "d", add)
    os.close(held)
    assert (tree.read(), refusals[0]) == ({}, True)


def test_remove_passes_on_what_the_caller_raises_between_entries(trees):
    tree = trees("t")
    tree.write(d__a__b__c="1")

    def fail():
        raise OSError("from the caller")

    with pytest.raises(OSError, match="from the caller"):
        remove(tree.fd, "d", fail)


def test_user_removes_own_directories_that_are_not_writable(trees):
    tree = trees("t")
    tree.write(d__a__b__c="1", d__e__f="2")
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", tree.path], check=True)
    subprocess.run(["chmod", "-R", "a-w", tree.path / "d"], check=True)
    (tree.path / "d/e").chmod(0)
    assert as_nobody("remove(fds[0], 'd')", tree.fd) == b""
    assert tree.read() == {}


# merge


def test_merge_replaces_what_it_brings_and_keeps_the_rest(trees):
    staged, target = trees("s"), trees("t")
    staged.write(same="new", d__same="new", l="->x", over="->y", new__deep__f="2")
    target.write(same="old", d__same="old", d__kept="old", kept="old", over="old")
    merge(staged.fd, target.fd, nothing)
    brought = {"same": "new", "d/same": "new", "l": "->x", "over": "->y", "new": None, "new/deep": None}
    assert target.read() == brought | {"new/deep/f": "2", "d": None, "d/kept": "old", "kept": "old"}


def test_merge_brings_modes_and_owners_of_what_is_new_and_keeps_those_of_directories(trees):
    staged, target = trees("s"), trees("t")
    staged.write(d__f="new", n__f="1")
    target.write(d__f="old")
    (staged.path / "n").chmod(0o2555)
    (staged.path / "d/f").chmod(0o4711)
    (staged.path / "d").chmod(0o555)
    (target.path / "d").chmod(0o751)
    os.chown(staged.path / "n", 7, 8)
    merge(staged.fd, target.fd, nothing)
    assert [target.mode(name) for name in ("d", "d/f", "n")] == [0o751, 0o4711, 0o2555]
    assert (target.path / "n").stat().st_uid == 7


@pytest.mark.parametrize(
    ("staged_files", "target_files", "path"),
    [
        ({"d__x": "1"}, {"d": "file"}, "d"),
        ({"d__x": "1"}, {"d": "->e", "e": None}, "d"),
        ({"d": "file"}, {"d": None}, "d"),
        ({"d": "->e"}, {"d__x": "1"}, "d"),
        ({"a__b__c": "1", "a__b__d__e": "2"}, {"a__b__d": "file"}, "a/b/d"),
    ],
)
def test_merge_finds_every_clash_of_kinds_before_anything_moves(trees, staged_files, target_files, path):
    staged, target = trees("s"), trees("t")
    staged.write(a_first="1", z__last="2", **staged_files)
    target.write(z__other="3", **target_files)
    before = staged.read(), target.read()
    with pytest.raises(TargetConflict) as refusal:
        merge(staged.fd, target.fd, nothing)
    assert refusal.value.facts == {"path": path}
    assert (staged.read(), target.read()) == before


def test_merge_that_died_anywhere_is_finished_by_the_next(trees):
    wanted = {"d": None, "d/a": "1", "d/e": None, "d/e/f": "3", "d/old": "0", "g": "4", "h": None, "h/i": "5"}
    for step in range(1, 6):
        staged, target = trees(f"s{step}"), trees(f"t{step}")
        staged.write(d__a="1", d__e__f="3", g="4", h__i="5")
        target.write(d__old="0", g="old")
        try:
            merge(staged.fd, target.fd, crash_after(step))
        except Crash:
            merge(staged.fd, target.fd, nothing)
        assert target.read() == wanted
        merge(staged.fd, target.fd, nothing)
        assert target.read() == wanted


def test_merge_needs_neither_stack_nor_descriptors_for_depth(fast):
    staged, target = fast("s"), fast("t")
    staged.deep(3_000)
    target.deep(2_999)
    moved = []
    merge(staged.fd, target.fd, lambda: moved.append(1))
    assert len(moved) == 301


def test_merge_does_not_follow_a_link_that_a_user_swaps_in(trees):
    staged, target, outside = trees("s"), trees("t"), trees("outside")
    staged.write(a="1", d__f="2")
    target.write(d__old="0")

    def swap():
        if not (target.path / "d").is_symlink():
            (target.path / "d").rename(target.path / "moved")
            (target.path / "d").symlink_to(outside.path)

    with pytest.raises(TargetConflict):
        merge(staged.fd, target.fd, swap)
    assert outside.read() == {}


def test_merge_finds_its_way_when_directories_are_moved_under_it(trees):
    staged, target, elsewhere = trees("s"), trees("t"), trees("elsewhere")
    staged.write(a__b__f="1", a__g="2", h="3")
    target.write(a__b__old="0")

    def move():
        if (target.path / "a/b/f").exists():
            (target.path / "a/b").rename(elsewhere.path / "b")

    merge(staged.fd, target.fd, move)
    assert (target.path / "a/g").read_text() == "2"
    assert elsewhere.read() == {"b": None, "b/f": "1", "b/old": "0"}


def test_merge_asks_for_rights_before_anything_moves(trees):
    staged, target = trees("s"), trees("t")
    staged.write(a="1", d__secret="2")
    target.write(d__old="0")

    def check(fd, name):
        if name == "secret":
            raise PermissionDenied(os.readlink(f"/proc/self/fd/{fd}"))

    with pytest.raises(PermissionDenied, match="t/d"):
        merge(staged.fd, target.fd, nothing, check)
    assert target.read() == {"d": None, "d/old": "0"}


def test_merge_never_enters_the_reserved_directory(trees):
    staged, target = trees("s"), trees("t")
    staged.write(a="1", d__hidden__journal="bad")
    target.write(d__hidden__journal="good")
    found = (target.path / "d/hidden").stat()
    with pytest.raises(PathReserved):
        merge(staged.fd, target.fd, nothing, reserved=(found.st_dev, found.st_ino))
    assert target.read() == {"d": None, "d/hidden": None, "d/hidden/journal": "good"}


def test_merge_copies_into_mounts_below_the_target(trees, mounted):
    staged, target = trees("s"), trees("t")
    staged.write(m__f="new", m__l="->x", m__d__e__f="2")
    target.write(m=None)
    mounted(target.path / "m")
    target.write(m__f="old", m__kept="0")
    (staged.path / "m/d").chmod(0o555)
    (staged.path / "m/f").chmod(0o4755)
    subprocess.run(["chown", "-hR", "7:8", staged.path / "m/l", staged.path / "m/d"], check=True)
    merge(staged.fd, target.fd, nothing, durable=True)
    read = target.read()
    assert read == {"m": None, "m/d": None, "m/d/e": None, "m/d/e/f": "2", "m/f": "new", "m/kept": "0", "m/l": "->x"}
    assert (target.mode("m/d"), target.mode("m/f")) == (0o555, 0o4755)
    assert {(target.path / name).lstat().st_uid for name in ("m/l", "m/d", "m/d/e/f")} == {7}


def test_merge_into_a_mount_that_died_leaves_nothing_of_its_own(trees, mounted):
    for step in range(1, 7):
        staged, target = trees(f"s{step}"), trees(f"t{step}")
        staged.write(m__a="1", m__d__e="2", m__l="->x")
        target.write(m=None)
        mounted(target.path / "m")
        target.write(**{"m__.agentd-merge": None})
        (target.path / "m/.agentd-merge").chmod(0o700)
        try:
            merge(staged.fd, target.fd, crash_after(step))
        except Crash:
            merge(staged.fd, target.fd, nothing)
        assert target.read() == {"m": None, "m/a": "1", "m/d": None, "m/d/e": "2", "m/l": "->x"}


def test_name_of_the_private_directory_is_no_way_to_have_others_things_deleted(trees, mounted):
    staged, target = trees("s"), trees("t")
    staged.write(m__a="1")
    target.write(m=None)
    mounted(target.path / "m")
    private = ".agentd-merge"
    target.write(**{f"m__{private}__entry": "kept", f"m__{private}__other": "kept"})
    (target.path / "m" / private).chmod(0o700)
    with pytest.raises(Conflict, match="not a directory that the daemon made"):
        merge(staged.fd, target.fd, nothing)
    assert target.read()[f"m/{private}/entry"] == "kept"


def test_user_merges_own_directories_that_are_not_writable(trees):
    staged, target = trees("s"), trees("t")
    staged.write(both__f="1", new__g__h="2")
    target.write(both__old="0")
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", staged.path, target.path], check=True)
    subprocess.run(["chmod", "-R", "0555", staged.path / "both", staged.path / "new"], check=True)
    assert as_nobody("merge(*fds, lambda: None)", staged.fd, target.fd) == b""
    assert target.read() == {"both": None, "both/f": "1", "both/old": "0", "new": None, "new/g": None, "new/g/h": "2"}
    assert target.mode("new") == 0o555


# sync_tree


def test_sync_reaches_every_file_and_directory_whatever_is_among_them(fast):
    tree = fast("t")
    tree.write(a__b__c="1", l="->nowhere", empty=None)
    os.mkfifo(tree.path / "pipe")
    (tree.path / "a/b").chmod(0)
    sync_tree(tree.fd)
    tree.deep(3_000)
    sync_tree(tree.fd)


def test_no_descriptor_is_left_open(trees):
    staged, target = trees("s"), trees("t")
    staged.write(a__b="1", c__d="2")
    target.write(a__b="0", c="clash")
    with nothing_stays_open():
        with pytest.raises(TargetConflict):
            merge(staged.fd, target.fd, nothing)
        sync_tree(target.fd)
        remove(target.fd, "a")
