"""Which directory passes for the daemon's own: where a mount keeps owners and modes, none looks as if it did not."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import Conflict
from agentd.linux.private import private_directory

NOBODY = 65534
# linux/posix_acl_xattr.h: a version, then tag, rights and id. Its owner may not write what is new there.
CLOSING_LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 0o5, 0xFFFFFFFF) for tag in (0x01, 0x04, 0x20))


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def close_what_is_new(directory: Path) -> None:
    try:
        os.setxattr(directory, "system.posix_acl_default", CLOSING_LIST)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")


def test_a_directory_that_does_not_become_private_is_taken_away_again(tmp_path: Path, top: int) -> None:
    close_what_is_new(tmp_path)
    with pytest.raises(Conflict), private_directory(top, "p"):
        pass
    assert os.listdir(top) == []


def test_an_access_control_list_does_not_pass_for_a_mount_without_modes(tmp_path: Path, top: int) -> None:
    theirs = tmp_path / "p"
    theirs.mkdir()
    theirs.chmod(0o777)
    close_what_is_new(theirs)
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(Conflict), private_directory(top, "p"):
        pass
    assert (os.listdir(top), os.listdir(theirs)) == (["p"], [])
    assert (theirs.stat().st_uid, theirs.stat().st_mode & 0o777) == (NOBODY, 0o777)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, top: int) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p").symlink_to("elsewhere")
    with pytest.raises(NotADirectoryError), private_directory(top, "p"):
        pass
    assert sorted(os.listdir(top)) == ["elsewhere", "p"]
