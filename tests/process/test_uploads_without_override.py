"""Daemons that the modes of files bind, as root without CAP_DAC_OVERRIDE is: a completion that was cut short has given
the staging file owner and mode of its target, and what was accepted is still there."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentd.failpoints import VARIABLE
from tests.conftest import Daemon
from tests.process.harness.mounts import mounted
from tests.process.harness.sender import NO_ANSWER
from tests.uploading import Client, content_of, reason

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes capabilities from root")

CONTENT = content_of(2500)
ALL, OVERRIDE = "-all", "-dac_override,-dac_read_search"
POINTS = ["complete.after_chown", "complete.after_intent"]
Start = Callable[..., Client]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(capabilities to do without, failpoint)``"""
    started: list[Daemon] = []

    def make(without: str, failpoint: str = "") -> Client:
        class Bound(Daemon):
            prefix = ("setpriv", f"--bounding-set={without}", "--inh-caps=-all", "--groups=64123")

        (tmp_path / "root").mkdir()
        flags = ("--uploads-part-size", "1000")
        started.append(Bound(tmp_path / "root", tmp_path / "log", flags, {VARIABLE: failpoint}))
        return Client(started[0])

    yield make
    for daemon in started:
        daemon.term()


def sent(client: Client, **more: Any) -> tuple[Any, Path]:
    """The session of an upload with all its parts, and the target: a file that may only be read."""
    target = client.daemon.root / "workspace/target"
    if not more:
        target.write_bytes(b"old")
        target.chmod(0o444)
    session = client.begin("target", len(CONTENT), **more)
    client.send(session, CONTENT)
    return session, target


def died(client: Client, session: Any) -> None:
    with suppress(*NO_ANSWER):
        client.complete(session)
    client.daemon.wait()


@pytest.mark.parametrize("point", POINTS)
def test_the_next_daemon_completes_it(start: Start, point: str) -> None:
    client = start(ALL, f"{point}=exit")
    session, target = sent(client)
    died(client, session)
    client.daemon.restart(environment={})
    assert client.complete(session).status == 200
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (CONTENT, 0o444)


@pytest.mark.parametrize("point", POINTS)
def test_the_next_daemon_completes_what_was_given_to_another_user(start: Start, point: str) -> None:
    client = start(OVERRIDE, f"{point}=exit")
    session, target = sent(client, user="1234")
    died(client, session)
    client.daemon.restart(environment={})
    assert client.complete(session).status == 200
    assert (target.read_bytes(), target.stat().st_uid) == (CONTENT, 1234)


def test_a_completion_that_failed_is_repeated(start: Start) -> None:
    client = start(ALL, "complete.after_chown=error")
    session, target = sent(client)
    assert client.complete(session).status == 500
    assert target.read_bytes() == b"old"
    client.daemon.restart(environment={})
    assert client.complete(session).status == 200
    assert target.read_bytes() == CONTENT


def test_an_upload_whose_completion_was_cut_short_is_aborted(start: Start) -> None:
    client = start(ALL, "complete.after_chown=exit")
    session, target = sent(client)
    died(client, session)
    client.daemon.restart(environment={})
    assert client.abort(session).status == 204
    assert client.status(session)["status"] == "aborted"
    assert target.read_bytes() == b"old"


def test_a_busy_target_is_busy_however_often_it_is_completed(start: Start) -> None:
    client = start(ALL)
    session, target = sent(client)
    os.rename(target, target.with_name("source"))
    target.touch()
    with mounted(target.with_name("source"), target):
        assert [reason(client.complete(session)) for _ in range(2)] == [(409, "conflict")] * 2
        assert client.abort(session).status == 204


def test_what_this_daemon_may_not_read_is_kept_for_one_that_may(start: Start) -> None:
    client = start(ALL)
    session, target = sent(client)
    client.daemon.kill9()
    staged = client.daemon.root / "workspace/.nullspace/uploads/v1" / session["upload_id"] / "data"
    os.chown(staged, 1234, 1234)
    client.daemon.restart()
    assert client.call("GET", "/uploads").json()["quarantined"] == [session["upload_id"]]
    assert reason(client.complete(session)) == (409, "upload_state_lost")
    client.daemon.term()
    os.chown(staged, 0, 0)
    client.daemon.restart()
    assert client.complete(session).status == 200
    assert target.read_bytes() == CONTENT
