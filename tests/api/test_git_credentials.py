"""Credentials of a git operation let it in, and are to be found nowhere else, while it runs and afterwards."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer, Daemon
from tests.githttp import PASSWORD, USER, Site, serve
from tests.process.harness.waiting import eventually
from tests.processes import BOB, with_bob

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")

HTTPS = {"kind": "https", "username": USER, "password": PASSWORD}
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\r\nc2VjcmV0\r\n-----END OPENSSH PRIVATE KEY-----"
WHO = {"author_name": "Ann", "author_email": "ann@example.org"}
# Takes the part of ssh(1): closes all fds, reads its key and asks for the passphrase, notes both, and runs the command
# on this machine.
SSH = """#!/bin/sh
exec 3<&- 4<&- 5<&- 6<&-
key=
for word; do
  [ "$previous" = -i ] && key=$word
  previous=$word
done
{ echo "args: $*"; stat -L -c "mode: %a %u" "$key"; cat "$key"
  [ -n "$SSH_ASKPASS" ] && echo "passphrase: $("$SSH_ASKPASS" "Enter passphrase for key: ")"; } > "${0%/*}/seen"
eval "last=\\${$#}"
exec sh -c "$last"
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in PATH with an ssh of our own."""
    made = tmp_path_factory.mktemp("tools")
    for above in (made, made.parent, made.parent.parent):
        above.chmod(0o755)
    made.chmod(0o777)
    (made / "ssh").write_text(SSH)
    (made / "ssh").chmod(0o755)
    return made


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, tools: Path) -> Iterator[Daemon]:
    path = f"{tools}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    daemon = with_bob(tmp_path_factory.mktemp("credentials"), "--processes-path", path)
    (daemon.root / "home/bob").mkdir(parents=True, exist_ok=True)
    os.chown(daemon.root / "home/bob", BOB, BOB)
    yield daemon
    assert daemon.term() == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """With the repository ``r.git``, of one commit."""
    source = tmp_path / "source"
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (
        ("init", "-q", "-b", "main", source),
        ("-C", source, *identity, "commit", "-q", "--allow-empty", "-m", "m"),
        ("clone", "-q", "--bare", source, tmp_path / "repositories/r.git"),
    ):
        subprocess.run(["git", *arguments], check=True)
    with serve(tmp_path / "repositories") as found:
        yield found


def ask(daemon: Daemon, operation: str, **body: Any) -> Answer:
    return daemon.call("POST", f"/v1/git/{operation}", body)


def everything_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def test_credentials_let_in_for_clone_push_and_pull(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    one, two = f"{tmp_path.name}-1", f"{tmp_path.name}-2"
    for path in (one, two):
        assert ask(sandbox, "clone", url=f"{site.url}/r.git", path=path, auth=HTTPS).status == 200
    (sandbox.root / "workspace" / one / "f").write_text("f")
    ask(sandbox, "commit", path=one, message="new", add_all=True, **WHO)
    pushed, pulled = ask(sandbox, "push", path=one, auth=HTTPS), ask(sandbox, "pull", path=two, auth=HTTPS)
    assert (pushed.status, pulled.status) == (200, 200), (pushed.body, pulled.body)
    assert (sandbox.root / "workspace" / two / "f").read_text() == "f"


def test_credentials_stay_nowhere(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    """Not even where the user has asked git to keep what it learns."""
    (sandbox.root / "home/bob/.gitconfig").write_text("[credential]\n\thelper = store\n")
    answer = ask(sandbox, "clone", url=f"{site.url}/r.git", path=tmp_path.name, user="bob", auth=HTTPS)
    assert answer.json() == {"path": f"/home/bob/{tmp_path.name}"}
    kept = everything_below(sandbox.root) + (sandbox.root.parent / "stderr").read_bytes()
    assert b"credential" in kept
    assert PASSWORD.encode() not in kept
    assert b"p%25ss" not in kept
    assert ask(sandbox, "pull", path=tmp_path.name, user="bob").status == 422


def test_credentials_are_on_no_command_line_and_in_no_environment(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    """A hook of the repository, which runs as the user while the command does, writes down what all can see."""
    ask(sandbox, "clone", url=f"{site.url}/r.git", path=tmp_path.name, auth=HTTPS)
    there = sandbox.root / "workspace" / tmp_path.name
    hook = there / ".git/hooks/pre-push"
    hook.write_text(f"#!/bin/sh\ncat /proc/[0-9]*/cmdline > {tmp_path}/seen\nenv >> {tmp_path}/seen\n")
    hook.chmod(0o755)
    assert ask(sandbox, "push", path=tmp_path.name, auth=HTTPS, branch="main:new").status == 200
    seen = (tmp_path / "seen").read_bytes()
    assert b"credential.http://127.0.0.1" in seen
    assert PASSWORD.encode() not in seen


def test_what_is_lent_can_be_opened_by_the_user_alone(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    ask(sandbox, "clone", url=f"{site.url}/r.git", path=tmp_path.name, user="bob", auth=HTTPS)
    hook = sandbox.root / "home/bob" / tmp_path.name / ".git/hooks/pre-push"
    hook.write_text('#!/bin/sh\nstat -L -c "%a %u" /proc/self/fd/3 > seen\n')
    hook.chmod(0o755)
    assert ask(sandbox, "push", path=tmp_path.name, user="bob", auth=HTTPS, branch="main:new").status == 200
    assert (sandbox.root / "home/bob" / tmp_path.name / "seen").read_text() == f"400 {BOB}\n"


def test_credentials_for_one_site_are_not_shown_to_another(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    with serve(tmp_path / "repositories") as other:
        site.elsewhere = f"{other.url}/"
        answer = ask(sandbox, "clone", url=f"{site.url}/elsewhere/r.git", path=tmp_path.name, auth=HTTPS)
    assert answer.status == 422
    assert other.asked
    assert set(other.asked) == {None}


def test_wrong_credentials_are_told_without_them(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    wrong = {**HTTPS, "password": "wrong-password"}
    answer = ask(sandbox, "clone", url=f"{site.url}/r.git", path=tmp_path.name, auth=wrong)
    assert (answer.status, answer.json()["code"]) == (422, "git_error")
    assert "Authentication failed" in answer.json()["error"]
    assert b"wrong-password" not in answer.body


def test_without_credentials_nobody_is_asked_for_them(sandbox: Daemon, site: Site, tmp_path: Path) -> None:
    answer = ask(sandbox, "clone", url=f"{site.url}/r.git", path=tmp_path.name)
    assert "terminal prompts disabled" in answer.json()["error"]


@pytest.mark.parametrize("passphrase", [None, 'o"p $en'])
def test_a_key_reaches_ssh_and_stays_nowhere(
    sandbox: Daemon, site: Site, tmp_path: Path, tools: Path, passphrase: str | None
) -> None:
    auth = {"kind": "ssh", "private_key": KEY, "passphrase": passphrase}
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    subprocess.run(["chown", "-R", f"{BOB}:{BOB}", tmp_path / "repositories"], check=True)
    url = f"git@127.0.0.1:{tmp_path}/repositories/r.git"
    answer = ask(sandbox, "clone", url=url, path=tmp_path.name, user="bob", auth=auth)
    assert answer.status == 200, answer.body
    seen = (tools / "seen").read_text()
    (tools / "seen").unlink()
    assert KEY.replace("\r", "") + "\n" in seen
    assert f"mode: 400 {BOB}\n" in seen
    assert ("passphrase: " + str(passphrase) in seen, "BatchMode" in seen) == (bool(passphrase), not passphrase)
    assert b"c2VjcmV0" not in everything_below(sandbox.root)


@pytest.mark.parametrize(
    ("url", "auth"),
    [
        ("git@host:r.git", HTTPS),
        ("/srv/r.git", HTTPS),
        ("https://127.0.0.1:9/r.git", {"kind": "ssh", "private_key": KEY}),
        ("git@host:r.git", {"kind": "ssh", "private_key": "no key"}),
        ("git@host:r.git", {"kind": "ssh", "private_key": KEY, "passphrase": "a\nb"}),
        ("https://127.0.0.1:9/r.git", {"kind": "https", "username": "a\npassword=b", "password": "x"}),
        ("https://127.0.0.1:9/r.git", {"kind": "https", "username": "a", "password": "\ud800"}),
        ("https://127.0.0.1:9/r.git", {"kind": "https", "username": "a"}),
        ("https://127.0.0.1:9/r.git", {"kind": "token", "username": "a"}),
    ],
)
def test_credentials_that_do_not_fit_are_refused(sandbox: Daemon, tmp_path: Path, url: str, auth: Any) -> None:
    answer = ask(sandbox, "clone", url=url, path=tmp_path.name, auth=auth)
    assert (answer.status, answer.json()["code"]) == (400, "invalid_request")


def test_a_client_that_leaves_ends_the_clone(sandbox: Daemon, tmp_path: Path, tools: Path) -> None:
    (tools / "git-remote-slow").write_text(f"#!/bin/sh\necho $$ > {tools}/pid\nexec sleep 1000\n")
    (tools / "git-remote-slow").chmod(0o755)
    body = f'{{"url": "slow::x", "path": "{tmp_path.name}"}}'.encode()
    with sandbox.connect() as leaving:
        head = f"POST /v1/git/clone HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sandbox.token}\r\n"
        leaving.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert eventually(lambda: (tools / "pid").exists() and (tools / "pid").read_text().endswith("\n"))
    pid = int((tools / "pid").read_text())
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert eventually(lambda: not (sandbox.root / "workspace" / tmp_path.name).exists())
