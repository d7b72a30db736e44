"""What the published client experiences when the network breaks, or the daemon dies, in the middle of an upload."""

from pathlib import Path

import pytest

from tests.conftest import Daemon, StartDaemon
from tests.contract.clients import Client, Refused
from tests.contract.conftest import MIB, MakeFile
from tests.contract.relay import Relay, relay_to
from tests.contract.trees import entries, grow

pytestmark = pytest.mark.exhaustive

SMALL_PARTS = ("--uploads-part-size", "1MiB")
HALF_A_PART = MIB // 2


def open_targets(daemon: Daemon) -> list[str]:
    """The targets of all uploads that the daemon knows, ended or not."""
    return [item["target_path"] for item in daemon.call("GET", "/v1/uploads").json()["items"]]


def back_again(daemon: Daemon) -> None:
    """Starts the daemon where it was once it has died: same port, same root, nothing armed."""
    daemon.wait()
    daemon.restart("--listen", f"127.0.0.1:{daemon.port}", *SMALL_PARTS, environment={})


# -- the network


def test_a_connection_cut_in_the_middle_of_a_part_goes_unnoticed(
    client: Client, place: str, here: Path, make_file: MakeFile, relay: Relay
) -> None:
    source = make_file(6 * MIB)
    relay.cut_request("/parts/2", HALF_A_PART)
    client.at(relay.url).upload(source, f"{place}/file")
    assert (here / "file").read_bytes() == source.read_bytes()
    assert sorted(relay.sent("PUT")) == ["0", "1", "2", "2", "3", "4", "5"]


def test_an_upload_cut_in_the_middle_of_a_part_is_resumed_without_sending_again_what_arrived(
    client: Client, place: str, here: Path, make_file: MakeFile, relay: Relay
) -> None:
    source = make_file(6 * MIB)
    relay.cut_request("/parts/3", HALF_A_PART)
    with pytest.raises(Refused) as refused:
        client.at(relay.url, retries=0).upload(source, f"{place}/file", max_concurrency=1)
    assert refused.value.kind == "FileUploadError"
    relay.requests.clear()
    result = client.at(relay.url).resume(refused.value.upload_id, source)
    assert sorted(relay.sent("PUT")) == ["3", "4", "5"]
    assert (result.resumed, result.target_path) == (True, f"{place}/file")
    assert (here / "file").read_bytes() == source.read_bytes()


def test_an_upload_with_a_gap_is_resumed_though_the_client_repeats_what_came_after_it(
    client: Client, place: str, here: Path, make_file: MakeFile, relay: Relay
) -> None:
    source = make_file(4 * MIB + 7)
    session = client.create(f"{place}/file", 4 * MIB + 7)
    for number in (0, 2, 3):
        client.part(session, number, source)
    assert client.status(session).next_part == 1
    client.at(relay.url).resume(session.upload_id, source)
    assert sorted(relay.sent("PUT")) == ["1", "2", "3", "4"]
    assert (here / "file").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("lost", ["/uploads", "/parts/1", "/complete"])
def test_a_lost_answer_goes_unnoticed(
    client: Client, place: str, here: Path, sandbox: Daemon, make_file: MakeFile, relay: Relay, lost: str
) -> None:
    source = make_file(2 * MIB + 7)
    relay.drop_answer(lost)
    result = client.at(relay.url).upload(source, f"{place}/file")
    assert (result.target_path, result.session.status) == (f"{place}/file", "completed")
    assert (here / "file").read_bytes() == source.read_bytes()
    assert len([line for line in relay.requests if line.endswith(lost)]) == 2
    assert open_targets(sandbox).count(f"{place}/file") == 1


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_lost_answer_to_complete_goes_unnoticed_for_a_directory(
    client: Client, place: str, here: Path, tmp_path: Path, relay: Relay, conflict: str
) -> None:
    source = grow(tmp_path / "source")
    relay.drop_answer("/complete")
    result = client.at(relay.url).upload_dir(source, place, conflict=conflict)
    assert result.bytes_uploaded == result.session.content_length
    assert entries(here) == entries(source)


def test_an_upload_is_resumed_whose_answer_to_complete_was_lost(
    client: Client, place: str, here: Path, make_file: MakeFile, relay: Relay
) -> None:
    source = make_file(MIB)
    relay.drop_answer("/complete")
    with pytest.raises(Refused) as refused:
        client.at(relay.url, retries=0).upload(source, f"{place}/file")
    relay.requests.clear()
    result = client.at(relay.url).resume(refused.value.upload_id, source)
    assert (result.resumed, result.bytes_uploaded, result.session.status) == (True, MIB, "completed")
    assert relay.sent("PUT") == []


@pytest.mark.parametrize("again", [{}, {"idempotency_key": "another"}, {"idempotency_key": "the same"}])
def test_complete_answers_the_same_again(
    client: Client, place: str, here: Path, make_file: MakeFile, again: dict[str, str]
) -> None:
    session = client.create(f"{place}/file", 5)
    client.part(session, 0, make_file(5))
    first = client.complete(session, idempotency_key="the same")
    (here / "file").unlink()
    assert client.complete(session, **again) == first
    assert not (here / "file").exists()


def test_a_network_that_loses_everything_at_last_fails_with_the_id_to_resume_by(
    client: Client, place: str, make_file: MakeFile, relay: Relay
) -> None:
    for _ in range(2):
        relay.cut_request("/parts/0", HALF_A_PART)
    with pytest.raises(Refused) as refused:
        client.at(relay.url, retries=1).upload(make_file(MIB), f"{place}/file")
    assert refused.value.kind == "FileUploadError"
    upload = client("client.get_upload_session", refused.value.upload_id)
    assert (upload.target_path, upload.accepted_bytes, upload.status) == (f"{place}/file", 0, "created")


# -- the daemon

DEATHS = [
    "create.before_ack=exit",
    "part.after_first_write=exit:3",
    "sync.after_journal=exit:3",
    "complete.after_intent=exit",
    "complete.after_rename=exit",
]


@pytest.mark.parametrize("death", DEATHS)
def test_a_daemon_that_is_killed_and_comes_back_at_once_goes_unnoticed(
    client: Client, start_daemon: StartDaemon, make_file: MakeFile, death: str
) -> None:
    source = make_file(6 * MIB)
    daemon = start_daemon(*SMALL_PARTS, environment={"AGENTD_FAILPOINT": death})
    client = client.at(daemon.url, token=daemon.token)
    client.start("files.upload_file", source, "file", resumable=True)
    back_again(daemon)
    assert client.finish().target_path == "/workspace/file"
    assert (daemon.root / "workspace/file").read_bytes() == source.read_bytes()
    assert open_targets(daemon) == ["/workspace/file"]


@pytest.mark.parametrize(
    ("death", "again"),
    [
        ("part.after_first_write=exit:4", ["3", "4", "5"]),
        ("complete.after_seal=exit", []),
    ],
)
def test_an_upload_is_resumed_after_the_daemon_was_killed(
    client: Client, start_daemon: StartDaemon, make_file: MakeFile, death: str, again: list[str]
) -> None:
    source = make_file(6 * MIB)
    daemon = start_daemon(*SMALL_PARTS, environment={"AGENTD_FAILPOINT": death})
    client = client.at(daemon.url, token=daemon.token, retries=0)
    with pytest.raises(Refused) as refused:
        client.upload(source, "file", max_concurrency=1)
    back_again(daemon)
    with relay_to(daemon.port) as relay:
        result = client.at(relay.url).resume(refused.value.upload_id, source)
        assert sorted(relay.sent("PUT")) == again
    assert (result.resumed, result.bytes_uploaded) == (True, 6 * MIB)
    assert (daemon.root / "workspace/file").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("death", "conflict"),
    [
        ("complete.after_rename=exit", "replace"),
        ("merge.after_entry=exit:3", "merge"),
    ],
)
def test_a_daemon_that_is_killed_while_it_publishes_a_directory_goes_unnoticed(
    client: Client, start_daemon: StartDaemon, tmp_path: Path, death: str, conflict: str
) -> None:
    source = grow(tmp_path / "source")
    daemon = start_daemon(*SMALL_PARTS, environment={"AGENTD_FAILPOINT": death})
    target = daemon.root / "workspace/target"
    (target / "nested").mkdir(parents=True)
    (target / "nested").chmod(0o700)
    client = client.at(daemon.url, token=daemon.token)
    client.start("files.upload_dir", source, "target", conflict=conflict)
    back_again(daemon)
    assert client.finish().target_path == "/workspace/target"
    assert entries(target) == entries(source)


def test_a_daemon_that_is_stopped_and_started_again_in_the_middle_goes_unnoticed(
    client: Client, start_daemon: StartDaemon, make_file: MakeFile
) -> None:
    source = make_file(16 * MIB)
    daemon = start_daemon(*SMALL_PARTS)
    with relay_to(daemon.port) as relay:
        client = client.at(relay.url, token=daemon.token)
        client.start("files.upload_file", source, "file", max_concurrency=2)
        relay.wait_for("/parts/4")
        assert daemon.term() == 0
        back_again(daemon)
        client.finish()
    assert (daemon.root / "workspace/file").read_bytes() == source.read_bytes()
