"""What the kernel says of changes, and what it says where it has no room for a watch."""

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import CapacityExceeded, PermissionDenied
from agentd.linux import inotify
from agentd.linux.inotify import Inotify

# A user namespace has limits of its own (user_namespaces(7)): nothing of the machine's is used up.
IN_A_NAMESPACE = """
import os, sys
from pathlib import Path
from agentd.errors import CapacityExceeded
from agentd.linux import inotify
Path("/proc/sys/user/max_inotify_watches").write_text("2")
instance = inotify.Inotify()
try:
    for name in "abc":
        os.mkdir(name)
        instance.add(os.open(name, os.O_PATH), inotify.CREATE, name)
except CapacityExceeded as error:
    print(name, error.detail)
"""


def test_what_an_fd_is_open_on_is_watched_whatever_its_name_is_now(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    fd = os.open(tmp_path / "old", os.O_PATH)
    with Inotify() as instance:
        wd = instance.add(fd, inotify.CREATE, "/old")
        os.close(fd)
        (tmp_path / "old").rename(tmp_path / "new")
        (tmp_path / "new/file").touch()
        assert select.select([instance.fd], [], [], 0)[0]
        assert instance.read() == [(wd, inotify.CREATE, 0, "file")]
        assert instance.read() == []


def test_both_halves_of_a_rename_are_read_together(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    fd = os.open(tmp_path, os.O_PATH)
    with Inotify() as instance:
        instance.add(fd, inotify.MOVED_FROM | inotify.MOVED_TO, "/")
        os.close(fd)
        (tmp_path / "old").rename(tmp_path / "new")
        left, came = instance.read()
        assert (left.name, came.name, left.cookie) == ("old", "new", came.cookie)


def test_a_watch_is_removed_once_or_more_often(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    with Inotify() as instance:
        wd = instance.add(fd, inotify.CREATE, "/")
        os.close(fd)
        instance.remove(wd)
        instance.remove(wd)
        assert [notice.mask for notice in instance.read()] == [inotify.IGNORED]


def test_what_this_thread_may_not_read_cannot_be_watched(tmp_path: Path, unprivileged: Callable[..., object]) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    tmp_path.chmod(0o711)

    def watch() -> None:
        with Inotify() as instance:
            instance.add(fd, inotify.CREATE, "/private")

    assert isinstance(unprivileged(watch), PermissionDenied)
    os.close(fd)


def test_an_instance_too_many_names_the_setting(unprivileged: Callable[..., object]) -> None:
    def exhaust() -> None:
        most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
        held = [Inotify() for _ in range(most + 1)]
        del held

    error = unprivileged(exhaust)
    assert isinstance(error, CapacityExceeded)
    assert "fs.inotify.max_user_instances" in error.detail


def test_a_watch_too_many_names_the_setting(tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", IN_A_NAMESPACE]
    paths = os.pathsep.join([os.getcwd(), *sys.path])
    found = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": paths}, capture_output=True, text=True)
    if "unshare" in found.stderr:
        pytest.skip("no user namespaces here")
    assert found.stdout.startswith("c cannot watch 'c'"), found.stderr
    assert "fs.inotify.max_user_watches" in found.stdout
