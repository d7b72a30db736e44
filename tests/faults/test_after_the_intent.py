"""The daemon dies between the word that it will publish and the rename, and what it then finds is not what it left."""

import http.client
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.faults.conftest import Mount, run
from tests.uploading import Client, content_of, reason, sha256, tar_of

CONTENT = content_of(2500)
ARCHIVE = tar_of({"g": CONTENT})
SMALL = ("--uploads-part-size", "1000")


def dead_after_intent(client: Client, target: str, *, tree: bool = False, **more: Any) -> Any:
    """The session of an upload whose completion was cut off there."""
    session = client.begin_tar(target, ARCHIVE, **more) if tree else client.begin(target, len(CONTENT), **more)
    client.send(session, ARCHIVE if tree else CONTENT)
    with suppress(OSError, http.client.HTTPException):
        client.complete(session)
    client.daemon.wait()
    return session


@pytest.fixture
def client(start_daemon: StartDaemon) -> Client:
    return Client(start_daemon(*SMALL, environment={"AGENTD_FAILPOINT": "complete.after_intent=exit"}))


def staging(client: Client, session: Any) -> Path:
    place: Path = client.daemon.root / "workspace/.nullspace/uploads/v1" / session["upload_id"]
    return place


def test_a_staging_file_that_is_no_longer_whole_is_not_published(client: Client) -> None:
    session = dead_after_intent(client, "target")
    os.truncate(staging(client, session) / "data", 1500)
    client.daemon.restart(environment={})
    assert client.status(session)["status"] == "failed"
    assert reason(client.complete(session)) == (409, "upload_state_lost")
    assert not (client.daemon.root / "workspace/target").exists()
    assert client.abort(session).status == 204


@pytest.mark.parametrize("tree", [False, True], ids=["file", "tree"])
@pytest.mark.parametrize("lost", ["directory", "content"])
def test_what_was_staged_beside_the_target_and_is_gone_is_staged_again(
    mount: Mount, start_daemon: StartDaemon, tmp_path: Path, tree: bool, lost: str
) -> None:
    (tmp_path / "root/workspace/there").mkdir(parents=True)
    place = mount(place=tmp_path / "root/workspace/there")
    client = Client(start_daemon(*SMALL, environment={"AGENTD_FAILPOINT": "complete.after_intent=exit"}))
    session = dead_after_intent(client, "there/target", tree=tree)
    (private,) = place.iterdir()
    if lost == "directory":
        shutil.rmtree(private)
    else:
        private.rename(place / "elsewhere")
    client.daemon.restart(environment={})
    assert client.complete(session).status == 200
    assert (place / "target/g" if tree else place / "target").read_bytes() == CONTENT


@pytest.mark.parametrize("conflict", ["error", "replace"])
@pytest.mark.parametrize("tree", [False, True], ids=["file", "tree"])
def test_a_file_system_that_is_mounted_again_with_another_number_changes_nothing(
    start_daemon: StartDaemon, tmp_path: Path, tree: bool, conflict: str
) -> None:
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "root")}
    for layer in layers.values():
        layer.mkdir()
    options = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
    root = layers["root"]
    run("mount", "-t", "overlay", "overlay", "-o", options, str(root))
    try:
        if conflict == "replace" and tree:
            (root / "workspace/target/old").mkdir(parents=True)
        armed = {"AGENTD_FAILPOINT": "complete.after_intent=exit"}
        client = Client(start_daemon(*SMALL, root=root, environment=armed))
        session = dead_after_intent(client, "target", tree=tree, conflict=conflict)
        number, held = root.stat().st_dev, os.open(root, os.O_PATH)  # so that the number is not free
        run("umount", "--lazy", str(root))
        run("mount", "-t", "overlay", "overlay", "-o", options, str(root))
        os.close(held)
        assert root.stat().st_dev != number
        client.daemon.restart(environment={})
        assert client.complete(session).status == 200
        place = root / "workspace/target"
        assert (place / "g" if tree else place).read_bytes() == CONTENT
        assert not (place / "old").exists()
        client.daemon.term()
    finally:
        run("umount", "--lazy", str(root))


def test_the_digest_that_was_declared_before_the_death_is_the_one_that_counts(client: Client) -> None:
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    with suppress(OSError, http.client.HTTPException):
        client.complete(session, sha256(CONTENT))
    client.daemon.wait()
    client.daemon.restart(environment={})
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert reason(client.complete(session, sha256(b"other"))) == (409, "upload_already_completed")
