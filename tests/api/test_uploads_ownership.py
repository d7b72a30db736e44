"""Who owns what is published, with which mode, and where it may go at all (wire contract, section 1.9)."""

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.uploading import Client, reason, sha256, tar_of

NOBODY, OTHER = 65534, 4242
ARCHIVE = tar_of({"sub": None, "sub/f": b"new", "f": b"new"})


def facts(path: Path) -> tuple[int, int, str]:
    """Owner, group, mode."""
    found = path.lstat()
    return found.st_uid, found.st_gid, f"{stat.S_IMODE(found.st_mode):04o}"


@pytest.mark.parametrize(("user", "owner"), [(None, 0), ("nobody", NOBODY)])
def test_a_new_file_is_0644_and_the_users(
    client: Client, home: Path, target: str, user: str | None, owner: int
) -> None:
    assert client.put(target, b"new", user=user).status == 200
    assert facts(home / "target") == (owner, owner, "0644")


@pytest.mark.parametrize(("user", "owner"), [(None, OTHER), ("nobody", NOBODY)])
@pytest.mark.parametrize(("before", "after"), [(0o640, "0640"), (0o4755, "0755"), (0o2755, "0755"), (0o000, "0000")])
def test_a_replaced_file_hands_on_its_mode_without_set_id_bits_and_its_owner_unless_one_is_named(
    client: Client, home: Path, target: str, user: str | None, owner: int, before: int, after: str
) -> None:
    (home / "target").write_bytes(b"old")
    os.chown(home / "target", OTHER, OTHER)
    (home / "target").chmod(before)
    assert client.put(target, b"new", user=user).status == 200
    assert facts(home / "target") == (owner, owner, after)
    assert (home / "target").read_bytes() == b"new"


def test_a_new_file_gets_the_access_list_that_its_directory_has_for_new_ones(
    client: Client, home: Path, target: str
) -> None:
    lines = [(1, 7, -1), (2, 7, NOBODY), (4, 5, -1), (16, 7, -1), (32, 0, -1)]  # linux/posix_acl_xattr.h
    rights = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *line) for line in lines)
    os.setxattr(home, "system.posix_acl_default", rights)
    os.close(os.open(home / "made", os.O_WRONLY | os.O_CREAT, 0o666))
    assert client.put(target, b"new").status == 200
    assert facts(home / "target") == facts(home / "made") == (0, 0, "0660")
    lists = {os.getxattr(home / name, "system.posix_acl_access") for name in ("target", "made")}
    assert len(lists) == 1


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
@pytest.mark.parametrize(("user", "owner"), [(None, 0), ("nobody", NOBODY)])
def test_a_new_tree_is_the_users_with_the_archives_modes(
    client: Client, home: Path, target: str, conflict: str, user: str | None, owner: int
) -> None:
    assert client.put_tar(target, ARCHIVE, conflict=conflict, user=user).status == 200
    tree = home / "target"
    assert facts(tree) == facts(tree / "sub") == (owner, owner, "0755")
    assert facts(tree / "f") == facts(tree / "sub/f") == (owner, owner, "0644")


@pytest.mark.parametrize(("user", "owner"), [(None, OTHER), ("nobody", NOBODY)])
def test_a_replaced_tree_keeps_nothing_but_mode_and_owner_of_its_top(
    client: Client, home: Path, target: str, user: str | None, owner: int
) -> None:
    (home / "target/old/deep").mkdir(parents=True)
    os.chown(home / "target", OTHER, OTHER)
    (home / "target").chmod(0o2750)
    assert client.put_tar(target, ARCHIVE, conflict="replace", user=user).status == 200
    assert facts(home / "target") == (owner, owner, "0750")
    assert sorted(entry.name for entry in (home / "target").iterdir()) == ["f", "sub"]


def test_a_merged_tree_keeps_what_it_had_besides(client: Client, home: Path, target: str) -> None:
    (home / "target/sub").mkdir(parents=True)
    (home / "target/sub/kept").write_bytes(b"old")
    (home / "target/f").write_bytes(b"old")
    os.chown(home / "target/sub", OTHER, OTHER)
    assert client.put_tar(target, ARCHIVE, user="nobody").status == 200
    assert (home / "target/f").read_bytes() == (home / "target/sub/f").read_bytes() == b"new"
    assert (home / "target/sub/kept").read_bytes() == b"old"
    assert facts(home / "target/sub")[0] == OTHER
    assert facts(home / "target/sub/f")[0] == NOBODY


@pytest.mark.parametrize(("user", "owner"), [(None, 0), ("nobody", NOBODY)])
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_missing_parents_are_0755_and_the_users(
    client: Client, home: Path, target: str, user: str | None, owner: int, kind: str
) -> None:
    path = f"{target}/a/b/c"
    answer = client.put(path, b"new", user=user) if kind == "file" else client.put_tar(path, ARCHIVE, user=user)
    assert answer.status == 200
    assert {facts(home / one) for one in ("target", "target/a", "target/a/b")} == {(owner, owner, "0755")}


def test_missing_parents_are_not_made_before_there_is_something_to_publish(
    client: Client, home: Path, target: str
) -> None:
    client.begin(f"{target}/a/b", 1)
    assert list(home.iterdir()) == []


MAKERS: dict[str, Callable[[Path], None]] = {
    "directory": Path.mkdir,
    "FIFO": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o666),
}


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_no_file_is_never_replaced_by_one(
    client: Client, home: Path, target: str, kind: str, conflict: str
) -> None:
    session = client.begin(target, 0, conflict=conflict)
    MAKERS[kind](home / "target")
    before = (home / "target").lstat().st_ino
    assert reason(client.complete(session)) == (409, "target_conflict")
    assert reason(client.create(target, 0, conflict=conflict)) == (409, "target_conflict")
    assert (home / "target").lstat().st_ino == before


@pytest.mark.parametrize("kind", ["file", "FIFO", "device", "socket"])
@pytest.mark.parametrize("conflict", ["merge", "replace"])
def test_what_is_no_directory_is_never_replaced_by_one(
    client: Client, home: Path, target: str, kind: str, conflict: str
) -> None:
    {"file": Path.touch, **MAKERS}[kind](home / "target")
    answer = client.create(target, len(ARCHIVE), kind="directory_tar", conflict=conflict)
    assert reason(answer) == (409, "target_conflict")


def test_a_parent_that_is_a_file_is_a_conflict(client: Client, home: Path, target: str) -> None:
    session = client.begin(f"{target}/below", 0)
    (home / "target").write_bytes(b"file")
    assert reason(client.complete(session)) == (409, "target_conflict")
    assert reason(client.create(f"{target}/below", 0)) == (409, "target_conflict")


# -- links


def test_a_link_stays_and_what_it_leads_to_is_replaced(client: Client, home: Path, target: str) -> None:
    (home / "real").write_bytes(b"old")
    (home / "target").symlink_to("real")
    answer = client.put(target, b"new")
    assert (answer.status, (home / "target").readlink()) == (200, Path("real"))
    assert not (home / "real").is_symlink()
    assert (home / "real").read_bytes() == b"new"


def test_a_link_that_leads_nowhere_yet_gets_its_target(client: Client, home: Path, target: str) -> None:
    (home / "target").symlink_to("not/yet")
    assert client.put(target, b"new").status == 200
    assert (home / "target").is_symlink()
    assert (home / "not/yet").read_bytes() == b"new"


def test_a_link_to_a_directory_is_merged_into(client: Client, home: Path, target: str) -> None:
    (home / "real").mkdir()
    (home / "real/kept").touch()
    (home / "target").symlink_to("real")
    assert client.put_tar(target, ARCHIVE).status == 200
    assert (home / "target").is_symlink()
    assert sorted(entry.name for entry in (home / "real").iterdir()) == ["f", "kept", "sub"]


def test_links_in_a_circle_are_refused(client: Client, home: Path, target: str) -> None:
    (home / "target").symlink_to("other")
    (home / "other").symlink_to("target")
    assert reason(client.create(target, 0)) == (409, "too_many_links")


def test_a_link_out_of_the_root_stays_inside(client: Client, home: Path, target: str) -> None:
    (home / "target").symlink_to("../../../../../../../../etc/planted")
    assert client.put(target, b"new").status == 200
    assert (client.daemon.root / "etc/planted").read_bytes() == b"new"
    assert not Path("/etc/planted").exists()


@pytest.mark.parametrize("where", ["target", "parent"])
def test_a_link_of_another_user_lends_that_users_rights_alone(
    client: Client, home: Path, target: str, where: str
) -> None:
    secret = client.daemon.root / f"secret-{home.name}"
    secret.mkdir(mode=0o700)
    (secret / "file").write_bytes(b"of root")
    link = home / "target"
    link.symlink_to(f"/{secret.name}/file" if where == "target" else f"/{secret.name}")
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    path = target if where == "target" else f"{target}/file"
    assert reason(client.create(path, 0)) == (403, "permission_denied")
    assert (secret / "file").read_bytes() == b"of root"


def test_a_link_that_is_planted_after_the_create_lends_its_owners_rights_alone(
    client: Client, home: Path, target: str
) -> None:
    session = client.begin(target, 0)
    place = client.daemon.root / f"of-root-{home.name}"
    place.mkdir()
    (home / "target").symlink_to(f"/{place.name}/file")
    os.chown(home / "target", OTHER, OTHER, follow_symlinks=False)
    assert reason(client.complete(session)) == (403, "permission_denied")
    assert list(place.iterdir()) == []


def test_a_link_of_another_user_leads_where_that_user_may_write(client: Client, home: Path, target: str) -> None:
    (home / "theirs").mkdir()
    os.chown(home / "theirs", OTHER, OTHER)
    (home / "target").symlink_to("theirs/file")
    os.chown(home / "target", OTHER, OTHER, follow_symlinks=False)
    assert client.put(target, b"new").status == 200
    assert (home / "theirs/file").read_bytes() == b"new"


# -- strict access


def test_with_kernel_access_the_named_users_rights_decide(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--user-access", "kernel")
    client = Client(daemon)
    place = daemon.root / "workspace/theirs"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    (daemon.root / "workspace/file").write_bytes(b"of root")
    assert client.put("/workspace/theirs/new", b"new", user="nobody").status == 200
    session = client.begin("/workspace/file", 0, user="nobody")
    assert reason(client.complete(session)) == (403, "permission_denied")
    assert (daemon.root / "workspace/file").read_bytes() == b"of root"


def test_with_kernel_access_a_merge_is_bound_entry_by_entry(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--user-access", "kernel")
    client = Client(daemon)
    top = daemon.root / "workspace/top"
    (top / "sub").mkdir(parents=True)
    os.chown(top, NOBODY, NOBODY)
    answer = client.put_tar("/workspace/top", ARCHIVE, user="nobody")
    assert reason(answer) == (403, "permission_denied")
    assert list((top / "sub").iterdir()) == []


def test_the_digest_is_of_the_archive_and_not_of_the_tree(client: Client, target: str) -> None:
    session = client.begin_tar(target, ARCHIVE, whole_checksum_sha256=sha256(ARCHIVE))
    client.send(session, ARCHIVE)
    assert client.complete(session, sha256(ARCHIVE)).status == 200
