"""Where a target is, when its path steps up."""

import pytest

from tests.conftest import Daemon
from tests.uploading import Client, reason


@pytest.fixture
def client(daemon: Daemon) -> Client:
    (daemon.root / "elsewhere/inside").mkdir(parents=True)
    (daemon.root / "workspace/link").symlink_to("/elsewhere/inside")
    (daemon.root / "workspace/there").mkdir()
    return Client(daemon)


def test_a_step_up_leads_where_the_file_system_says(client: Client) -> None:
    session = client.begin("link/../f", 0)
    assert session["target_path"] == "/elsewhere/f"
    assert client.complete(session).status == 200
    assert (client.daemon.root / "elsewhere/f").read_bytes() == b""


@pytest.mark.parametrize("target", ["missing/../f", "missing/../.nullspace/f", "/no/such/../../workspace/f"])
def test_a_step_up_from_nothing_is_refused_at_create_and_leaves_nothing(client: Client, target: str) -> None:
    assert reason(client.create(target, 0)) == (404, "not_found")
    assert not (client.daemon.root / "workspace/missing").exists()


def test_a_step_up_into_the_reserved_tree_is_refused_at_create(client: Client) -> None:
    assert reason(client.create("there/../.nullspace/f", 0)) == (403, "permission_denied")
