"""The daemon dies with its intent written, and again while it stages the same upload anew: what it says afterwards has
to agree with the target, which nobody has touched yet."""

from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, StartDaemon
from tests.faults.conftest import Mount
from tests.uploading import Client, content_of, sha256, tar_of

pytestmark = pytest.mark.exhaustive

CONTENT = tar_of({f"f{n}": content_of(100 + n) for n in range(5)})


def die(daemon: Daemon, point: str) -> None:
    """Starts the daemon anew; it dies at ``point``, before or after it says that it is ready."""
    with suppress(RuntimeError):
        daemon.restart(environment={"AGENTD_FAILPOINT": f"{point}=exit"})
    assert daemon.wait() == -9


def completed_until_intent(client: Client, session: Any) -> None:
    client.send(session, CONTENT)
    with pytest.raises((OSError, HTTPException)):
        client.complete(session, sha256(CONTENT))
    assert client.daemon.wait() == -9


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
@pytest.mark.parametrize("point", ["complete.after_unpack", "complete.after_chown", "complete.after_intent"])
def test_a_tree_is_not_called_published_before_it_is(start_daemon: StartDaemon, point: str, conflict: str) -> None:
    daemon = start_daemon(environment={"AGENTD_FAILPOINT": "complete.after_intent=exit"})
    client = Client(daemon)
    session = client.begin_tar("target", CONTENT, conflict=conflict)
    completed_until_intent(client, session)
    die(daemon, point)
    daemon.restart(environment={})
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert len(list((daemon.root / "workspace/target").iterdir())) == 5


def test_a_file_on_another_file_system_is_not_called_published_before_it_is(
    mount: Mount, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "root/workspace/there").mkdir(parents=True)
    place = mount(place=tmp_path / "root/workspace/there")
    daemon = start_daemon(environment={"AGENTD_FAILPOINT": "complete.after_intent=exit"})
    client = Client(daemon)
    session = client.begin("there/target", len(CONTENT))
    completed_until_intent(client, session)
    die(daemon, "complete.after_copy")
    daemon.restart(environment={})
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (place / "target").read_bytes() == CONTENT
