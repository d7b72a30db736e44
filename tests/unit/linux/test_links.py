"""A link lends the rights of who may have put it there, never the daemon's; `rights` bound the walk from its start."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import NotFound, PermissionDenied
from agentd.linux import syscalls
from agentd.linux.identity import Identity, acting_as
from agentd.linux.root import Root

Read = Callable[..., str]
Link = Callable[..., Path]


@pytest.fixture(autouse=True)
def homes(top: Path, bob: Identity, eve: Identity) -> None:
    """Each has a home of their own with a file in it, mode 0700 and 0600."""
    (top / "home").mkdir(mode=0o755)
    for user in (bob, eve):
        home = top / "home" / user.name
        home.mkdir(mode=0o700)
        (home / "file").touch(0o600)
        (home / "file").write_text(user.name)
        for path in (home, home / "file"):
            os.chown(path, user.uid, user.gid)


def move(top: Path, old: str, new: str, user: Identity) -> None:
    fd = os.open(top, os.O_PATH)
    try:
        with acting_as(user):
            os.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)
    finally:
        os.close(fd)


def test_link_of_root_lends_the_daemons_rights(read: Read, link: Link) -> None:
    link("/etc/l", "/private/secret")
    assert read("/etc/l") == "secret"


def test_link_of_root_that_a_user_moved_lends_that_users_rights(
    read: Read, link: Link, top: Path, bob: Identity
) -> None:
    (top / "home/bob/a").mkdir()
    os.chown(top / "home/bob/a", bob.uid, bob.gid)
    link("/home/bob/a/l", "../../private/secret")
    move(top, "home/bob/a/l", "home/bob/l", bob)
    with pytest.raises(PermissionDenied, match="'bob'"):
        read("/home/bob/l")
    link("/home/bob/own", "file")
    assert read("/home/bob/own") == "bob"


def test_link_of_root_lends_the_rights_of_those_who_may_move_a_directory_above_it(
    read: Read, link: Link, top: Path, bob: Identity
) -> None:
    (top / "home/bob/a/b").mkdir(parents=True)
    link("/home/bob/a/b/l", "../../../private/secret")
    os.chown(top / "home/bob/a", bob.uid, bob.gid)
    move(top, "home/bob/a", "workspace/a", bob)
    with pytest.raises(PermissionDenied, match="'bob'"):
        read("/workspace/a/b/l")


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_link_of_root_where_anybody_may_have_put_it_lends_nobodys_rights(
    read: Read, link: Link, top: Path, mode: int
) -> None:
    (top / "workspace").chmod(mode)
    link("/workspace/l", "/private/secret")
    link("/workspace/public", "/etc/passwd")
    with pytest.raises(PermissionDenied, match="'65534'"):
        read("/workspace/l")
    assert read("/workspace/public").startswith("bob")


def test_directory_of_root_stays_where_it_is_only_in_a_sticky_one(read: Read, link: Link, top: Path) -> None:
    (top / "workspace/mine").mkdir()
    link("/workspace/mine/l", "/private/secret")
    with pytest.raises(PermissionDenied):
        read("/workspace/mine/l")
    (top / "workspace").chmod(0o1777)
    assert read("/workspace/mine/l") == "secret"


def test_own_group_of_a_user_is_nobody_else(
    read: Read, link: Link, top: Path, unprivileged: Callable[[Callable[[], object]], object], bob: Identity
) -> None:
    (top / "home/bob").chmod(0o770)
    link("/home/bob/l", "file", bob.uid)
    assert unprivileged(lambda: read("/home/bob/l")) == "bob"


def test_link_of_a_user_leads_to_what_is_the_users(read: Read, link: Link, bob: Identity) -> None:
    link("/workspace/l", "/home/bob/file", bob.uid)
    link("/workspace/d", "/home/bob", bob.uid)
    assert read("/workspace/l") == read("/workspace/d/file") == "bob"


@pytest.mark.parametrize("target", ["/private/secret", "/home/eve/file", "../private/secret", "/private/../etc/passwd"])
def test_link_of_a_user_does_not_lead_to_what_the_user_may_not_see(
    read: Read, link: Link, bob: Identity, target: str
) -> None:
    link("/workspace/l", target, bob.uid)
    with pytest.raises(PermissionDenied, match="'bob'"):
        read("/workspace/l")


def test_file_that_its_links_owner_may_not_read_is_refused(read: Read, link: Link, top: Path, bob: Identity) -> None:
    (top / "etc/shadow").touch(0o600)
    link("/workspace/l", "/etc/shadow", bob.uid)
    link("/workspace/d", "/etc", bob.uid)
    for path in ("/workspace/l", "/workspace/d/shadow"):
        with pytest.raises(PermissionDenied):
            read(path)
    assert read("/workspace/d/passwd").startswith("bob")


def test_only_the_walk_from_the_link_on_is_its_owners(read: Read, link: Link, top: Path, bob: Identity) -> None:
    (top / "private/public").write_text("public")
    link("/private/l", "/etc/group", bob.uid)
    assert read("/private/l") == ""
    link("/private/m", "public", bob.uid)
    with pytest.raises(PermissionDenied):
        read("/private/m")


def test_links_of_two_owners_need_the_rights_of_both(read: Read, link: Link, bob: Identity, eve: Identity) -> None:
    link("/workspace/first", "/workspace/second", bob.uid)
    link("/workspace/second", "/home/eve/file", eve.uid)
    with pytest.raises(PermissionDenied, match="'bob'"):
        read("/workspace/first")
    assert read("/workspace/second") == "eve"


def test_rights_of_a_link_stay_after_a_link_of_root(read: Read, link: Link, bob: Identity) -> None:
    link("/workspace/first", "/workspace/second", bob.uid)
    link("/workspace/second", "/private/secret")
    with pytest.raises(PermissionDenied):
        read("/workspace/first")


def test_group_of_a_links_owner_counts(read: Read, link: Link, top: Path, bob: Identity) -> None:
    (top / "etc/group").write_text("team:x:40777:bob\n")
    (top / "private").chmod(0o750)
    os.chown(top / "private", 0, 40777)
    (top / "private/secret").chmod(0o644)
    link("/workspace/l", "/private/secret", bob.uid)
    assert read("/workspace/l") == "secret"


def test_rights_of_the_caller_bound_the_whole_walk(read: Read, bob: Identity, eve: Identity) -> None:
    assert read("/home/bob/file", rights=(bob,)) == "bob"
    for path, rights in (("/home/bob/file", (eve,)), ("/home/bob/file", (bob, eve)), ("/private/secret", (bob,))):
        with pytest.raises(PermissionDenied):
            read(path, rights=rights)


def test_dot_dot_needs_the_search_right_that_the_kernel_wants(root: Root, bob: Identity) -> None:
    with pytest.raises(PermissionDenied):
        root.locate("/private/../workspace/file", rights=(bob,))


def test_what_the_rights_hide_is_denied_rather_than_missing(root: Root, bob: Identity) -> None:
    with pytest.raises(PermissionDenied):
        root.locate("/private/absent", rights=(bob,))
    with pytest.raises(NotFound):
        root.open("/home/bob/absent", os.O_RDONLY, rights=(bob,))


def test_parents_beyond_a_link_are_made_as_its_owner_and_belong_to_it(
    root: Root, top: Path, link: Link, bob: Identity, eve: Identity
) -> None:
    link("/workspace/mine", "/home/bob/new", bob.uid)
    link("/workspace/theirs", "/private/new", bob.uid)
    with root.locate("/workspace/mine/x/file", make_parents=eve) as location:
        assert [identity.name for identity in location.rights] == ["bob"]
    assert (top / "home/bob/new/x").stat().st_uid == bob.uid
    with pytest.raises(PermissionDenied):
        root.locate("/workspace/theirs/x/file", make_parents=bob)
    assert not (top / "private/new").exists()


def test_parents_are_made_only_where_all_link_owners_may(
    root: Root, top: Path, link: Link, bob: Identity, eve: Identity
) -> None:
    (top / "home/eve").chmod(0o755)
    link("/workspace/first", "second", bob.uid)
    link("/workspace/second", "/home/eve/new", eve.uid)
    for path, rights in (("/workspace/first/file", ()), ("/home/eve/new/file", (eve, bob))):
        with pytest.raises(PermissionDenied, match="'bob'"):
            root.locate(path, make_parents=bob, rights=rights)
    assert not (top / "home/eve/new").exists()


def test_entry_is_replaceable_when_nobodys_rights_bound_it(root: Root) -> None:
    with root.locate("/private/secret") as location:
        location.check_replaceable()


def test_entry_beyond_a_link_is_replaceable_as_its_owner_could(root: Root, link: Link, bob: Identity) -> None:
    link("/workspace/mine", "/home/bob/file", bob.uid)
    link("/workspace/theirs", "/etc/passwd", bob.uid)
    with root.locate("/workspace/mine") as location:
        location.check_replaceable()
    with root.locate("/workspace/theirs") as location, pytest.raises(PermissionDenied, match="'bob'"):
        location.check_replaceable()


def test_entry_of_another_in_a_sticky_directory_is_not_replaceable(root: Root, top: Path, bob: Identity) -> None:
    (top / "workspace").chmod(0o1777)
    for name, owner in (("mine", bob.uid), ("theirs", 0)):
        (top / "workspace" / name).touch()
        os.chown(top / "workspace" / name, owner, owner)
    for name in ("mine", "new"):
        with root.locate(f"/workspace/{name}", rights=(bob,)) as location:
            location.check_replaceable()
    with root.locate("/workspace/theirs", rights=(bob,)) as location, pytest.raises(PermissionDenied, match="sticky"):
        location.check_replaceable()


def test_rights_that_the_kernel_cannot_tell_are_none(
    root: Root, bob: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(syscalls._NUMBER, "faccessat2", 999_999)
    with root.locate("/home/bob/file", rights=(bob,)) as location, pytest.raises(PermissionDenied):
        location.check_replaceable()


def test_daemon_that_is_not_root_follows_its_own_links_and_those_of_root(
    read: Read, link: Link, unprivileged: Callable[[Callable[[], object]], object], bob: Identity, eve: Identity
) -> None:
    link("/home/bob/own", "/home/bob/file", bob.uid)
    link("/etc/roots", "/home/bob/file")
    link("/workspace/eves", "/home/bob/file", eve.uid)
    assert unprivileged(lambda: read("/home/bob/own") + read("/etc/roots")) == "bobbob"
    assert isinstance(unprivileged(lambda: read("/workspace/eves")), PermissionDenied)
    assert isinstance(unprivileged(lambda: read("/private/secret")), PermissionDenied)


def test_daemon_that_is_not_root_makes_parents_of_its_own(
    root: Root, top: Path, unprivileged: Callable[[Callable[[], object]], object], bob: Identity
) -> None:
    unprivileged(lambda: root.locate("/workspace/x/y/file", make_parents=bob).close())
    assert (top / "workspace/x/y").stat().st_uid == bob.uid
