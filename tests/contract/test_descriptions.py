"""What ``/<dialect>/openapi.json`` says is true: schemathesis makes requests of it, those that it allows and those that
it does not, and holds every answer against it.

The daemon runs as root, on a directory of its own; what it starts is an unprivileged user's, whose name is ``0`` too,
so that nothing made up at random can ask for root.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Daemon
from tests.contract.clients import make_environment, shared
from tests.docs import dialects

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(600)]

PACKAGES = ("schemathesis==4.32.5", "openapi-spec-validator==0.9.0")
SEED = 2026
NOBODY = 65534


class Asked(NamedTuple):
    """count: made-up requests for each operation. paths: where a dialect has several mounts, one of them, for they have
    the same rows. least: requests of all operations together."""

    dialect: str
    count: int
    paths: str
    flags: tuple[str, ...] = ()
    least: int = 2000


ASKED = {
    "nullspace": Asked("nullspace", 10, "^/v1/machines/"),
    "daytona": Asked("daytona", 15, "^/daytona/toolbox/"),
    "duvo": Asked("duvo", 500, "^/duvo/"),
    "blackbox": Asked("blackbox", 400, "^/blackbox/"),
    "conway": Asked("conway", 400, "^/conway/"),
    "machines": Asked("nullspace", 60, r"^/v1/machines(/\{id\}|$)", ("--standalone",), 500),
    "sandboxes": Asked("daytona", 40, "^/daytona/api/", ("--standalone",), 500),
    "creation": Asked("duvo", 40, "^/duvo/v1/sandboxes$", ("--standalone",), 40),
}
# An answer that lasts until its client leaves has nothing that could be checked at its end.
ENDLESS = r"\.files\.watch$"
# What is valid by itself may be refused for what is on the disk, or for two fields that do not go together.
UNCHECKED = "positive_data_acceptance"
# Statuses that say what is the matter; 500 says that nobody knows. In a form everything is text, a number too.
SETTINGS = r"""
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "501", "503", "504", "507"]

[[operations]]
include-operation-id-regex = '\.files\.(upload|upload_old|bulk_upload|post|batch_write)$'
checks.negative_data_rejection.enabled = false
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with shared(place / "schemathesis", lambda where: make_environment(where, *PACKAGES)) as found:
        yield found / "bin/python"


@pytest.fixture
def run_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Whatever is started in it ends by itself, soon."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    users = [f"{name}:x:{NOBODY}:{NOBODY}::/home/nobody:/bin/sh\n" for name in ("nobody", "0")]
    (root / "etc/passwd").write_text("".join(users))
    (root / "etc/group").write_text(f"nogroup:x:{NOBODY}:\n0:x:{NOBODY}:\n")
    (root / "home/nobody").mkdir(parents=True)
    os.chown(root / "home/nobody", NOBODY, NOBODY)
    limits = ("--processes-cpu-seconds", "5", "--processes-memory-bytes", "1GiB", "--processes-grace", "0.1")
    ends = ("--sessions-idle-timeout", "2", "--uploads-max-upload-bytes", "64MiB")
    many = ("--default-user", "nobody", "--limits-unauthenticated-per-second", "100000")
    made: list[Daemon] = []

    def run(*flags: str) -> Daemon:
        made.append(Daemon(root, tmp_path / "stderr", (*limits, *ends, *many, *flags), {}))
        return made[0]

    yield run
    assert [daemon.term() for daemon in made] == [0]


@pytest.mark.parametrize("flags", [(), ("--standalone",)])
def test_every_description_is_valid(
    run_daemon: Callable[..., Daemon], python: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    daemon = run_daemon(*flags)
    files = []
    for name in ("", *{f"/{one.dialect}" for one in ASKED.values()}):
        described = daemon.call("GET", f"{name}/openapi.json")
        files.append(tmp_path / f"{name.removeprefix('/') or 'all'}.json")
        files[-1].write_bytes(described.body)
        assert described.json()["servers"] == [{"url": daemon.url}]
    subprocess.run([str(python), "-m", "openapi_spec_validator", *map(str, files)], check=True)


def test_every_dialect_is_asked() -> None:
    assert {one.name for one in dialects()} - {"agentd"} == {one.dialect for one in ASKED.values()}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_every_answer_is_one_that_is_described(
    run_daemon: Callable[..., Daemon], python: Path, tmp_path: Path, asked: Asked
) -> None:
    daemon = run_daemon(*asked.flags)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    command = [str(python), "-m", "schemathesis.cli", f"--config-file={tmp_path / 'settings.toml'}", "run"]
    command += [f"{daemon.url}/{asked.dialect}/openapi.json", "--url", daemon.url, "--seed", str(SEED)]
    command += ["--header", f"Authorization: Bearer {daemon.token}", "--max-examples", str(asked.count)]
    command += ["--include-path-regex", asked.paths, "--exclude-operation-id-regex", ENDLESS]
    command += ["--phases", "examples,coverage,fuzzing", "--generation-database", "none", "--continue-on-failure"]
    command += ["--exclude-checks", UNCHECKED, "--suppress-health-check", "all", "--no-color", "--warnings", "off"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(re.findall(r"(\d+) generated", ran.stdout)[0]) >= asked.least
