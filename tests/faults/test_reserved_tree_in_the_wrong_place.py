"""Whoever owns the workspace may rename the daemon's own tree: no upload is lost by it, and no token gained."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.faults.conftest import run, wait_until_stopped
from tests.process.harness.waiting import eventually
from tests.uploading import Client, content_of, reason, tar_of

ARCHIVE = tar_of({"new": b"new"})


def moved_within_a_replacement(daemon: Daemon, place: str) -> Answer:
    """The daemon's tree is renamed to `place` when ``dir`` is about to be replaced; what the complete says."""
    client, workspace, answers = Client(daemon), daemon.root / "workspace", list[Answer]()
    (workspace / "dir").mkdir(exist_ok=True)
    session = client.begin_tar("dir", ARCHIVE, conflict="replace")
    client.send(session, ARCHIVE)
    completion = threading.Thread(target=lambda: answers.append(client.complete(session)))
    completion.start()
    wait_until_stopped(daemon)
    if place == "dir":
        (workspace / "dir").rename(workspace / "away")
    (workspace / ".nullspace").rename(workspace / place)
    daemon.signal(signal.SIGCONT)
    completion.join()
    return answers[0]


@pytest.mark.parametrize("place", ["dir", "dir/x"])
def test_a_tree_that_has_come_to_hold_the_daemons_is_not_replaced(start_daemon: StartDaemon, place: str) -> None:
    environment = {"AGENTD_FAILPOINT": "complete.after_intent=pause"}
    daemon = start_daemon("--uploads-part-size", "1000", environment=environment)
    client, token = Client(daemon), daemon.token
    other = client.begin("precious", 3000)
    client.send(other, content_of(3000), [0])
    assert reason(moved_within_a_replacement(daemon, place)) == (403, "permission_denied")
    (daemon.root / "workspace" / place).rename(daemon.root / "workspace/.nullspace")
    assert daemon.token == token
    client.send(other, content_of(3000), [1, 2])
    assert client.complete(other).status == 200


def test_a_tree_that_cannot_be_exchanged_is_not_emptied_then_either(overlay: Path, start_daemon: StartDaemon) -> None:
    environment = {
        "AGENTD_FAILPOINT": "complete.after_intent=pause:2"
    }  # the second time it is staged beside the target
    daemon = start_daemon(root=overlay, environment=environment)
    token = daemon.token
    assert reason(moved_within_a_replacement(daemon, "dir/x")) == (403, "permission_denied")
    assert (overlay / "workspace/dir/x/token").read_text().strip() == token
    assert (overlay / "workspace/dir/old").exists()


def test_a_planted_token_is_never_taken(daemon: Daemon) -> None:
    token, workspace = daemon.token, daemon.root / "workspace"
    (workspace / ".nullspace").rename(workspace / "away")
    (workspace / ".nullspace").mkdir()
    (workspace / ".nullspace/token").write_text("planted\n")
    (workspace / "away/token").write_text(f"{token}\nanother\n")
    daemon.signal(signal.SIGHUP)
    assert eventually(lambda: daemon.call("GET", "/v1/capabilities", token="another").status == 200)
    assert daemon.call("GET", "/v1/capabilities", token="planted").status == 401


def test_an_upload_whose_tree_was_deleted_is_told_so(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    token = daemon.token
    run("rm", "-rf", str(daemon.root / "workspace/.nullspace"))
    asked = {"kind": "file", "source_kind": "restartable_file", "target_path": "q", "content_length": 5}
    answer = daemon.call("POST", "/v1/uploads", asked, token=token)
    assert answer.status == 503, answer.body


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A root in whose lower layer /workspace/dir is, with a file."""
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "overlay")}
    for layer in layers.values():
        layer.mkdir()
    (layers["lower"] / "workspace/dir").mkdir(parents=True)
    (layers["lower"] / "workspace/dir/old").touch()
    options = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
    run("mount", "-t", "overlay", "overlay", "-o", options, str(layers["overlay"]))
    yield layers["overlay"]
    run("umount", "--lazy", str(layers["overlay"]))


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A file in a tree, that not even root can delete."""
    file = tmp_path / "root/workspace/dir/sub/f"
    file.parent.mkdir(parents=True)
    file.touch()
    run("chattr", "+i", str(file))
    yield file
    run("chattr", "-R", "-f", "-i", str(tmp_path))


def test_what_cannot_be_deleted_hinders_neither_the_sweep_nor_the_next_start(
    immutable: Path, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon("--uploads-part-size", "1000", "--uploads-retention", "0.2")
    client, uploads = Client(daemon), daemon.root / "workspace/.nullspace/uploads/v1"
    assert client.put_tar("dir", ARCHIVE, conflict="replace").status == 200
    assert eventually(lambda: any(name.startswith(".trash-") for name in os.listdir(uploads)))
    assert client.put("other", b"x").status == 200
    assert eventually(lambda: all(name.startswith(".trash-") for name in os.listdir(uploads)))
    assert "is started again" not in str(daemon.log())
    assert daemon.term() == 0
    daemon.restart()
    assert client.put("other", b"y").status == 200
