"""Which APIs a daemon speaks, and where."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.asking import Caller
from tests.conftest import STOP_SECONDS, Daemon, StartDaemon
from tests.tables import PREFIXES, TABLES

# By the dialect: what it answers at once, below its own prefix.
ASKED = {
    "nullspace": "/v1/files?path=/workspace",
    "daytona": "/daytona/files?path=/workspace",
    "duvo": "/duvo/v1/sandboxes/s/files",
    "blackbox": "/blackbox/api/v1/tasks/r/files",
    "conway": "/conway/v1/sandboxes/s/files/list",
}


def served(daemon: Daemon) -> set[str]:
    return {name for name, path in ASKED.items() if daemon.call("GET", path).status == 200}


def test_all_are_served_by_default(shared: Daemon) -> None:
    assert served(shared) == {*ASKED}


@pytest.mark.parametrize("flags", [("--dialects", "duvo,conway"), ("--dialects", "duvo", "--dialects", "conway")])
def test_those_that_are_named_are_served_and_the_others_are_not_found(
    start_daemon: StartDaemon, flags: tuple[str, ...]
) -> None:
    daemon = start_daemon(*flags)
    assert served(daemon) == {"duvo", "conway"}
    assert {daemon.call("GET", path).status for path in ASKED.values()} == {200, 404}


def test_the_environment_names_them_too(start_daemon: StartDaemon) -> None:
    assert served(start_daemon(environment={"AGENTD_DIALECTS": "blackbox,nullspace"})) == {"blackbox", "nullspace"}


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (("--dialects", "duvo,nobody"), "dialects"),
        (("--dialect-at-root", "nobody"), "dialect_at_root"),
        (("--dialects", "duvo", "--dialect-at-root", "conway"), "dialect_at_root"),
    ],
)
def test_a_name_that_nobody_has_is_refused_at_start(tmp_path: Path, flags: tuple[str, ...], key: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    command = [sys.executable, "-m", "agentd", "serve", "--root", root, "--listen", "127.0.0.1:0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS, check=False)
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.startswith(f"agentd: {key}: ")
    assert "one of" in ended.stderr
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in ASKED if name != "nullspace"])
def test_the_dialect_at_the_root_is_served_there_and_below_its_prefix(start_daemon: StartDaemon, name: str) -> None:
    daemon = start_daemon("--dialect-at-root", name)
    at_root = daemon.call("GET", ASKED[name].removeprefix(f"/{name}"))
    below = daemon.call("GET", ASKED[name])
    assert (at_root.status, at_root.json()) == (below.status, below.json())
    assert served(daemon) == {*ASKED}
    for page in ("/livez", "/readyz", "/healthz", "/version", "/metrics", "/openapi.json", "/v1/capabilities"):
        assert daemon.call("GET", page).status == 200
    assert "python" in daemon.call("GET", "/version").json()


def test_what_has_a_row_in_common_with_the_root_leaves_that_prefix_to_it(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--dialect-at-root", "conway")
    run = daemon.call("POST", "/v1/sandboxes/s/exec", {"command": "echo hi"})
    assert run.json() == {"stdout": "hi\n", "stderr": "", "exitCode": 0, "exit_code": 0}
    assert daemon.call("GET", "/v1/sandboxes/s/entries").status == 404
    assert daemon.call("GET", "/v1/machines/s/entries").status == 200
    assert daemon.call("GET", "/v1/entries").status == 200


def test_an_upload_url_of_the_root_is_at_the_root(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--dialect-at-root", "duvo")
    url = daemon.call("POST", "/v1/sandboxes/s/upload-urls", {"path": "/workspace/f"}).json()["upload_url"]
    assert url.startswith(f"{daemon.url}/v1/sandboxes/s/")
    assert daemon.call("PUT", url.removeprefix(daemon.url), b"content", token=None).status == 200
    assert (daemon.root / "workspace/f").read_bytes() == b"content"


def test_the_root_tells_of_failures_in_its_own_shape(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--dialect-at-root", "duvo")
    told = daemon.call("GET", "/nothing")
    assert (told.status, told.json()["error"]) == (404, "not_found")


def test_every_operation_of_the_description_has_a_name_of_its_own(start_daemon: StartDaemon) -> None:
    told = start_daemon("--dialect-at-root", "duvo").call("GET", "/openapi.json").json()
    names = [row["operationId"] for path in told["paths"].values() for row in path.values()]
    assert len(names) == len({*names})
    assert "/v1/sandboxes/{sandbox_id}/upload-urls" in told["paths"]
    assert "/blackbox/api/v1/tasks/{run_id}/files/{path}" in told["paths"]


@pytest.mark.parametrize("name", [*ASKED])
def test_each_is_described_by_itself(shared: Daemon, name: str) -> None:
    told = shared.call("GET", f"/{name}/openapi.json").json()
    tags = {tag for path in told["paths"].values() for row in path.values() for tag in row["tags"]}
    assert (told["openapi"], tags) == ("3.1.0", {name})


def test_what_is_not_served_is_not_described(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--dialects", "duvo")
    assert daemon.call("GET", "/conway/openapi.json").status == 404
    assert daemon.call("GET", "/duvo/openapi.json", token=None).status == 401


@pytest.mark.parametrize("path", ["/a\0b", "/" + "x" * 300, "/x" * 2500, "/workspace/.nullspace/x"])
@pytest.mark.parametrize("dialect", ["duvo", "blackbox", "conway"])
def test_a_path_that_cannot_be_is_refused_in_every_row(shared: Daemon, dialect: str, path: str) -> None:
    caller = Caller(shared, PREFIXES[dialect])
    told = {row: ask(caller, path).status for row, ask in TABLES[dialect].items()}
    caller.close()
    assert [row for row, status in told.items() if not 400 <= status < 500] == []
