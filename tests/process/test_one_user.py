"""A daemon that cannot act as others, as in a container without capabilities: it is one user, says so, and works."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import STOP_SECONDS, Daemon
from tests.processes import BOB, Shell

# No capabilities, and groups that are not those of root's entry in /etc/group, which nobody can change then.
CAPLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--groups=64123")
FLAGS = ("--user-access", "kernel")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes capabilities from root")


class Capless(Daemon):
    prefix = CAPLESS


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("one")
    (place / "root").mkdir()
    started = Capless(place / "root", place / "log", FLAGS, {})
    yield started
    assert started.term() == 0


def test_it_says_that_it_is_one_user(daemon: Daemon) -> None:
    assert daemon.call("GET", "/v1/capabilities").json()["other_users"] is False
    assert any(line["message"].startswith("everything is done as user root") for line in daemon.log())


def test_with_capabilities_it_is_everybody(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    other = Daemon(tmp_path / "root", tmp_path / "log", (), {})
    assert other.call("GET", "/v1/capabilities").json()["other_users"] is True
    assert other.term() == 0


def test_commands_run_as_itself_and_as_nobody_else(daemon: Daemon) -> None:
    shell = Shell(daemon)
    assert shell.run("exit 7")["exit_code"] == 7
    assert shell.run("id -u", user="root")["stdout"] == "0\n"
    refused = daemon.call("POST", "/v1/exec", {"command": "id", "user": str(BOB)})
    assert (refused.status, refused.json()["code"]) == (403, "permission_denied")


def test_in_a_user_namespace_whose_groups_are_fixed_it_is_one_user_too(tmp_path: Path) -> None:
    class Mapped(Daemon):
        prefix = ("unshare", "--user", "--map-root-user")

    (tmp_path / "root").mkdir()
    try:
        daemon = Mapped(tmp_path / "root", tmp_path / "log", (), {})
    except RuntimeError:
        pytest.skip("there are no user namespaces here")
    try:
        assert daemon.call("GET", "/v1/capabilities").json()["other_users"] is False
        assert Shell(daemon).run("id -u", user="root")["stdout"] == "0\n"
        assert Shell(daemon).exec("id", user=str(BOB)).status == 403
    finally:
        assert daemon.term() == 0


def test_files_are_written_with_its_own_rights(daemon: Daemon) -> None:
    written = {"path": "/workspace/new/file", "content": "text"}
    assert daemon.call("POST", "/v1/files/write", {**written, "user": "root"}).status == 200
    assert daemon.call("POST", "/v1/files/write", {**written, "user": str(BOB)}).status == 403
    assert daemon.call("POST", "/v1/files/read", {**written, "user": "0"}).json()["content"] == "text"


def test_its_own_links_are_followed_in_a_volume_that_is_everybody_s(daemon: Daemon) -> None:
    workspace = daemon.root / "workspace"
    workspace.chmod(0o777)
    (workspace / "1").mkdir()
    (workspace / "current").symlink_to("1")
    written = {"path": "/workspace/current/file", "content": "text"}
    assert daemon.call("POST", "/v1/files/write", written).status == 200
    assert (workspace / "1/file").read_text() == "text"


def test_somebody_else_s_link_is_not_followed(daemon: Daemon) -> None:
    link = daemon.root / "workspace/foreign"
    link.symlink_to("/workspace")
    os.chown(link, 64124, 64124, follow_symlinks=False)
    refused = daemon.call("POST", "/v1/files/write", {"path": "/workspace/foreign/file", "content": "text"})
    assert (refused.status, refused.json()["code"]) == (403, "permission_denied")


def test_another_default_user_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    flags = ["--root", str(tmp_path), "--listen", "127.0.0.1:0", "--default-user", "64124"]
    command = [*CAPLESS, sys.executable, "-m", "agentd", "serve", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS)
    assert ended.returncode == os.EX_CONFIG
    assert ended.stderr.splitlines()[-1].startswith("agentd: default_user: the daemon cannot be 64124")
