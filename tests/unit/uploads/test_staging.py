"""The store's own directories last as long as what is in them."""

import os
from pathlib import Path

import pytest

from agentd.linux.workspace import keep_secret, open_reserved
from agentd.uploads.staging import Store


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of what is synced, as each is called at that moment."""
    paths: list[str] = []
    fsync = os.fsync

    def told(fd: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", told)
    return paths


@pytest.fixture
def workspace(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.mark.parametrize("durable", [True, False])
def test_the_directories_of_a_durable_store_are_synced(
    tmp_path: Path, workspace: int, synced: list[str], durable: bool
) -> None:
    Store(workspace, open_reserved(workspace), durable=durable).close()
    os.close(workspace)
    own = tmp_path / ".nullspace"
    parents = {str(tmp_path), str(own), str(own / "uploads")}
    assert set(synced) == (parents if durable else set())
    assert sorted(os.listdir(own)) == [".gitignore", "lock", "quarantine", "uploads"]


def test_a_secret_is_synced_before_it_has_its_name(tmp_path: Path, workspace: int, synced: list[str]) -> None:
    keep_secret(workspace, "token")
    os.close(workspace)
    assert synced == [str(tmp_path / "token.new"), str(tmp_path)]
