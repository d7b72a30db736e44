import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentd.errors import PermissionDenied, UnknownUser
from agentd.linux import syscalls
from agentd.linux.identity import Identity, Users, acting_as, decided_as

PASSWD = """# a comment
root:x:0:0::/root:/bin/sh
ann:x:1000:100:Ann,,,:/home/ann:/bin/sh

broken:x:1001
word:x:many:100::/:/bin/sh
minus:x:-5:100::/:/bin/sh
none:x:4294967295:100::/:/bin/sh
+nis::::::
nohome:x:1002:100:::
elsewhere:x:1003:100::home:/bin/sh
2000:x:1004:100::/home/digits:/bin/sh
ann:x:1005:100::/home/other:/bin/sh
"""
GROUP = "users:x:100:\nadm:x:4:ann,syslog\ndocker:x:999:ann\nbad:x:no:ann\nowners:x:100:ann\n"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(PASSWD)
    (etc / "group").write_text(GROUP)
    return etc


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    fd = os.open(tmp_path, os.O_PATH)
    yield Users(SimpleNamespace(fd=fd))
    os.close(fd)


def test_user_is_found_by_name_with_all_groups_and_home(etc: Path, users: Users) -> None:
    assert users.find("ann") == Identity(1000, 100, (100, 4, 999), "ann", "/home/ann")


def test_user_is_found_by_number(etc: Path, users: Users) -> None:
    assert users.find("1000") == users.find("ann") == users.of(1000)


def test_name_made_of_digits_goes_before_the_number(etc: Path, users: Users) -> None:
    assert users.find("2000").uid == 1004


def test_number_without_an_entry_is_a_user_of_its_own_group(etc: Path, users: Users) -> None:
    assert users.find("4242") == Identity(4242, 4242, (), "4242", "/workspace")


@pytest.mark.parametrize("name", ["nohome", "elsewhere"])
def test_home_that_is_missing_or_relative_is_the_root(etc: Path, users: Users, name: str) -> None:
    assert users.find(name).home == "/"


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "ann ", "nobody-here", "#", "# a comment", "broken", "word", "minus", "none", "+nis", "a:b", "a\nb"),
        *("-1", "+1", "4294967295", "4294967296", "9" * 5000, "\u0661", "\udcff", "\0"),
    ],
)
def test_unknown_user_is_refused_by_name(etc: Path, users: Users, name: str) -> None:
    with pytest.raises(UnknownUser) as caught:
        users.find(name)
    assert repr(name) in caught.value.detail


def test_names_of_ids_are_numbers_where_nobody_has_them(etc: Path, users: Users) -> None:
    assert (users.name(1000), users.name(77)) == ("ann", "77")
    assert (users.group(999), users.group(77)) == ("docker", "77")


def test_changed_files_are_read_again(etc: Path, users: Users) -> None:
    assert users.find("ann").uid == 1000
    (etc / "new").write_text("ann:x:1234:100::/:/bin/sh\n")
    (etc / "new").rename(etc / "passwd")
    assert users.find("ann").uid == 1234


@pytest.mark.parametrize("place", ["nothing", "directory", "fifo", "link"])
def test_root_without_a_password_file_has_the_machines_users(tmp_path: Path, users: Users, place: str) -> None:
    (tmp_path / "etc").mkdir()
    make = {
        "nothing": lambda path: None,
        "directory": os.mkdir,
        "fifo": os.mkfifo,
        "link": lambda path: path.symlink_to("x"),
    }
    make[place](tmp_path / "etc/passwd")
    assert users.find("root").uid == 0


def test_bytes_that_are_no_text_spoil_their_own_line_alone(etc: Path, users: Users) -> None:
    (etc / "passwd").write_bytes(b"\xff:x:5:5::/:/bin/sh\n\0\n" + PASSWD.encode())
    assert users.find("ann").uid == 1000


def test_thread_that_acts_as_a_user_has_that_users_rights_alone(tmp_path: Path, bob: Identity) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    with acting_as(bob):
        with pytest.raises(PermissionError):
            os.open(secret, os.O_RDONLY)
        with pytest.raises(PermissionError):
            os.chown(secret, bob.uid, bob.gid)
        assert (syscalls.setfsuid(-1), syscalls.setfsgid(-1), os.getgroups()) == (bob.uid, bob.gid, [bob.gid])
        assert syscalls.capget().effective == 0
    os.close(os.open(secret, os.O_RDONLY))


def test_supplementary_groups_open_what_is_theirs(tmp_path: Path, bob: Identity) -> None:
    tmp_path.chmod(0o750)
    os.chown(tmp_path, 0, 40777)
    fd = os.open(tmp_path, os.O_PATH)
    member = Identity(bob.uid, bob.gid, (bob.gid, 40777), "bob", "/")
    with acting_as(member):
        os.stat(".", dir_fd=fd)
    with acting_as(bob), pytest.raises(PermissionError):
        os.stat(".", dir_fd=fd)
    os.close(fd)


def test_other_threads_keep_the_rights_of_root(tmp_path: Path, bob: Identity) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    acting, done = threading.Event(), threading.Event()

    def other() -> None:
        with acting_as(bob):
            acting.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    acting.wait(10)
    assert secret.read_bytes() == b""
    done.set()
    thread.join()


def test_rights_come_back_after_an_exception_and_out_of_a_nested_identity(bob: Identity, eve: Identity) -> None:
    before = (syscalls.setfsuid(-1), syscalls.setfsgid(-1), os.getgroups(), syscalls.capget())
    with suppress(KeyError), acting_as(bob):
        with acting_as(eve):
            assert syscalls.setfsuid(-1) == eve.uid
        assert (syscalls.setfsuid(-1), syscalls.capget().effective) == (bob.uid, 0)
        raise KeyError
    assert (syscalls.setfsuid(-1), syscalls.setfsgid(-1), os.getgroups(), syscalls.capget()) == before


def test_acting_as_root_has_the_power_of_root(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with acting_as(Identity(0, 0, (0,), "root", "/root")):
        os.listdir(tmp_path)


def test_refusal_says_whose_rights_were_too_few(bob: Identity) -> None:
    with pytest.raises(PermissionDenied, match="'bob'") as caught:
        with decided_as(bob, "open", "/x"):
            raise PermissionError
    assert caught.value.facts == {"path": "/x", "user": "bob"}


def test_daemon_that_is_not_root_can_act_as_itself_alone(
    unprivileged: Callable[[Callable[[], object]], object], bob: Identity, eve: Identity
) -> None:
    def act(identity: Identity) -> int:
        with acting_as(identity):
            return os.geteuid()

    assert unprivileged(lambda: act(bob)) == bob.uid
    refusal = unprivileged(lambda: act(eve))
    assert isinstance(refusal, PermissionDenied)
    assert "not root with CAP_CHOWN" in refusal.detail


def test_daemon_without_the_capabilities_is_refused_and_keeps_its_rights(bob: Identity) -> None:
    outcome: list[object] = []

    def job() -> None:
        setuid_setgid = 1 << 6 | 1 << 7
        few = [mask & ~setuid_setgid for mask in syscalls.capget()]
        syscalls.capset(syscalls.Capabilities(*few))
        try:
            with acting_as(bob):
                outcome.append("acted")
        except PermissionDenied as error:
            outcome.append(error.detail)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert "not root with CAP_CHOWN" in str(outcome[0])


def test_thread_that_cannot_return_to_its_rights_ends_the_process() -> None:
    code = """
from agentd.linux import syscalls
from agentd.linux.identity import Identity, acting_as
with acting_as(Identity(40001, 40001, (), "bob", "/")):
    syscalls.capset(syscalls.Capabilities(0, 0, 0))
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (70, "")
