"""The published clients against a stand-alone daemon: machines and sandboxes from `create` to `kill`."""

from collections.abc import Iterator

import pytest

from tests.conftest import Daemon
from tests.contract.clients import OLD, Client, Refused
from tests.contract.conftest import start


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = start(tmp_path_factory.mktemp("alone"), "--standalone", "--processes-grace", "1")
    yield made
    assert made.term() == 0


@pytest.fixture
def alone(client: Client, daemon: Daemon) -> Iterator[Client]:
    """A client of the stand-alone daemon; what it has created is deleted."""
    made = client.at(daemon.url, token=daemon.token)
    yield made
    for one in made("class.list"):
        made("class.connect", **{ident(made): one.id})
        made.within(one.id)("machine.kill")


def ident(client: Client) -> str:
    return "sandbox_id" if client.version == OLD else "machine_id"


def create(alone: Client, **named: object) -> Client:
    return alone.within(alone("class.create", **named).id)


def test_a_machine_has_its_directory_and_its_variables(alone: Client) -> None:
    made = create(alone, envs={"WHO": "me"}, cwd="/workspace/of/mine")
    ran = made("commands.run", "echo $WHO; pwd", shell=True)
    assert ran.stdout.splitlines()[0] == "me"
    assert ran.stdout.rstrip().endswith("/workspace/of/mine")
    made("files.write", "relative.txt", "text")
    assert made("files.info", "relative.txt").path == "/workspace/of/mine/relative.txt"
    assert made.upload({"stream": __file__}, "up.py").target_path == "/workspace/of/mine/up.py"


def test_a_machine_says_what_it_was_created_with(alone: Client) -> None:
    made = alone("class.create", metadata={"a": {"b": 1}}, timeout=120, cwd="/workspace")
    assert made.id.startswith("sb_" if alone.version == OLD else "mch_")
    found = alone.within(made.id)("machine.get_info")
    assert (found.status, found.cwd, found.metadata.a.b) == (made.status, "/workspace", 1)
    assert found.timeout_ms == 120_000
    assert found.config.vcpus > 0
    assert alone.within(made.id)("machine.is_running") is True


def test_several_machines_are_listed_and_know_nothing_of_each_others_processes(alone: Client) -> None:
    one, two = create(alone, metadata={"n": 1}), create(alone, metadata={"n": 2})
    begun = one("commands.run", "sleep 600", shell=True, background=True)
    assert [found.id for found in alone("class.list")] == [one.machine, two.machine]
    assert [found.id for found in alone("class.list", limit=1)] == [one.machine]
    assert [process.pid for process in one("commands.list")] == [begun.pid]
    assert two("commands.list") == []
    with pytest.raises(Refused, match="NotFoundError"):
        two("commands.kill", begun.pid)


def test_a_machine_that_hibernates_is_not_ready_until_it_is_connected_to(alone: Client) -> None:
    made = create(alone)
    made("machine.hibernate")
    with pytest.raises(Refused) as refused:
        made("commands.run", "true")
    noun = "sandbox" if alone.version == OLD else "machine"
    assert refused.value.word == ("ConflictError", f"{noun}_not_ready")
    alone("class.connect", **{ident(alone): made.machine})
    assert made("commands.run", "echo", ["again"]).stdout == "again\n"


def test_a_machine_that_was_killed_is_not_found(alone: Client) -> None:
    made = create(alone)
    made("machine.kill")
    with pytest.raises(Refused) as refused:
        alone("class.connect", **{ident(alone): made.machine})
    noun = "sandbox" if alone.version == OLD else "machine"
    assert refused.value.word == ("NotFoundError", f"{noun}_not_found")
    assert alone("class.list") == []


def test_a_machine_lives_as_long_as_was_said_last(alone: Client) -> None:
    made = create(alone, timeout=600)
    made("machine.set_timeout", 1200)
    assert made("machine.get_info").timeout_ms == 1_200_000


@pytest.mark.parametrize("asked", [{"internet_access": False}, {"volumes": [{"ref": "v", "mount_path": "/v"}]}])
def test_what_one_machine_cannot_be_is_refused(alone: Client, asked: dict[str, object]) -> None:
    with pytest.raises(Refused, match="NotImplementedError"):
        alone("class.create", **asked)
