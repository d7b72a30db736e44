"""The image: agentd as the first process of a container, hardened and as root, with a command and without."""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.conftest import UNIT
from tests.deploy.engine import Container, Engine
from tests.deploy.images import ANA, CHECKOUT, Built, packages
from tests.process.harness.waiting import eventually

MOST_BYTES = 60e6
MIB = 1 << 20
STORM = "i=0; while [ $i -lt 8 ]; do (setsid sleep 0.0$i &) ; i=$((i+1)); done; exit "
ZOMBIES = "grep -ls '^State:.Z' /proc/[0-9]*/status | wc -l"
HARDENED = (
    *("--read-only", "--tmpfs=/tmp", "--tmpfs=/workspace", "--user=1000:1000"),
    *("--cap-drop=all", "--security-opt=no-new-privileges"),
)
AS_ROOT = ("--read-only", "--tmpfs=/tmp", "--tmpfs=/workspace:mode=0755")

pytestmark = pytest.mark.timeout(300 * UNIT)


@pytest.fixture(scope="module")
def hardened(engine: Engine, built: Built) -> Container:
    return engine.start(built.image, *HARDENED)


@pytest.fixture(scope="module")
def as_root(engine: Engine, built: Built) -> Container:
    return engine.start(built.image, *AS_ROOT)


@pytest.fixture(scope="module", params=["hardened", "as_root"])
def container(request: pytest.FixtureRequest) -> Container:
    found: Container = request.getfixturevalue(request.param)
    return found


def put(container: Container, source: Path, target: str, *flags: str) -> str:
    """By ``agentd put``."""
    where = ["--url", container.url, "--token-file", str(Path(container.url.removeprefix("unix:")).parent / "token")]
    command = [sys.executable, "-m", "agentd", "put", *where, *flags, str(source), target]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_is_small_and_starts_fast(engine: Engine, built: Built, hardened: Container) -> None:
    added = engine.size(built.image) - engine.size(built.base)
    print(f"\nthe image: {added / 1e6:.1f} MB over its base; {hardened.start_told()}", file=sys.stderr)
    assert added < MOST_BYTES
    assert hardened.seconds < 10 * UNIT


def test_it_has_the_packages_that_the_daemon_needs_and_no_others() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pending = [*project["dependencies"], *project["optional-dependencies"]["zstd"]]
    found = set[str]()
    environment = {**default_environment(), "python_version": "3.11", "extra": ""}
    while pending:
        wanted = Requirement(pending.pop())
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name not in found and (wanted.marker is None or wanted.marker.evaluate(environment)):
            found.add(name)
            pending += importlib.metadata.requires(name) or []
    assert sorted(found) == packages()


def test_its_configuration_is_all_that_an_engine_needs(engine: Engine, built: Built) -> None:
    (found,) = json.loads(engine.podman("image", "inspect", built.image))
    assert found["ManifestType"] == "application/vnd.docker.distribution.manifest.v2+json"
    config, health = found["Config"], found["Healthcheck"]
    assert config["Entrypoint"] == ["/opt/agentd/bin/agentd", "serve", "--"]  # not by a shell: it is PID 1
    assert (config["StopSignal"], config["WorkingDir"]) == ("SIGTERM", "/workspace")
    assert (config.get("Cmd"), config.get("User", ""), config.get("Volumes")) == (None, "", None)
    assert health["Test"] == ["CMD", "/opt/agentd/bin/agentd", "health"]
    assert "AGENTD_LISTEN=0.0.0.0:8811" in config["Env"]
    assert [*config["ExposedPorts"]] == ["8811/tcp"]


def test_nothing_of_its_making_is_left_in_it(as_root: Container) -> None:
    assert as_root.exec("ls -A /opt/agentd")["stdout"].split() == ["bin", "cache", "site"]
    assert as_root.exec("ls -d /build /root/.cache; command -v pip pip3 gcc cc; true")["stdout"] == ""


def test_a_wheel_that_the_lock_does_not_know_is_not_installed(engine: Engine, context: Path, built: Built) -> None:
    foreign = context / "wheels/aiohttp-0-py3-none-any.whl"
    foreign.write_bytes(b"")
    try:
        told = engine.build(context, "refused", f"--build-arg=BASE={built.base}", check=False)
    finally:
        foreign.unlink()
    assert "aiohttp-0-py3-none-any.whl is not in requirements.lock" in told


def test_a_wheel_that_is_missing_is_found_out_as_it_is_built(engine: Engine, context: Path, built: Built) -> None:
    (wheel,) = (context / "wheels").glob("msgspec-*.whl")
    aside = wheel.rename(context / wheel.name)
    try:
        told = engine.build(context, "refused", f"--build-arg=BASE={built.base}", check=False)
    finally:
        aside.rename(wheel)
    assert "No module named 'msgspec'" in told


def test_a_file_is_uploaded_into_it_by_parts(container: Container, tmp_path: Path) -> None:
    content = os.urandom(20 * MIB + 1)
    (tmp_path / "sent").write_bytes(content)
    put(container, tmp_path / "sent", "/workspace/in/sent")
    told = container.exec("sha256sum in/sent; cat /proc/1/cmdline | tr '\\0' ' '", cwd="/workspace")["stdout"]
    assert told.startswith(hashlib.sha256(content).hexdigest())
    assert told.strip().endswith("/opt/agentd/bin/agentd serve --")


def test_code_is_executed_by_the_python_of_the_base(container: Container) -> None:
    code = "import os, sys; print(sys.executable, sorted(set(sys.path) & {'/opt/agentd/site'}), os.environ.get('X'))"
    status, told = container.call("POST", "/v1/code/execute", {"code": code})
    assert (status, "/usr/bin/python3 [] None" in str(told)) == (200, True)


def test_none_of_256_exit_statuses_is_lost_in_a_storm_of_orphans(container: Container) -> None:
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda n: container.exec(STORM + str(n))["exit_code"], range(256)))
    assert codes == list(range(256))
    assert eventually(lambda: container.exec(ZOMBIES)["stdout"].strip() == "0")
    assert (
        int(re.findall(r"^agentd_orphans_reaped (\d+)", container.call("GET", "/metrics")[1], re.MULTILINE)[0]) >= 1000
    )


def test_it_says_that_it_is_well(container: Container) -> None:
    container.podman("healthcheck", "run", container.name)
    assert container.inspect("State.Health.Status") == "healthy"
    assert container.call("GET", "/readyz")[0] == 200


def test_without_capabilities_it_is_one_user_and_says_so(hardened: Container) -> None:
    assert hardened.call("GET", "/v1/capabilities")[1]["other_users"] is False
    assert "everything is done as user 1000" in hardened.log()
    assert hardened.exec("id -u")["stdout"] == "1000\n"
    assert hardened.call("POST", "/v1/exec", {"command": "id", "user": "ana"})[0] == 403
    assert hardened.exec("ln -s . /workspace/here && echo text >/workspace/linked")["exit_code"] == 0
    assert hardened.call("POST", "/v1/files/read", {"path": "/workspace/here/linked"})[1]["content"] == "text\n"


def test_it_starts_nothing_for_others_that_it_could_not_end(engine: Engine, built: Built) -> None:
    some = engine.start(built.image, *AS_ROOT, "--cap-drop=all", "--cap-add=CHOWN,SETGID,SETUID")
    assert some.call("GET", "/v1/capabilities")[1]["other_users"] is False
    assert some.call("POST", "/v1/exec", {"command": "id", "user": "ana"})[0] == 403
    assert some.exec("id -u")["stdout"] == "0\n"


def test_as_root_it_acts_as_every_user(as_root: Container, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"text")
    put(as_root, tmp_path / "sent", "/workspace/hers", "--user", "ana")
    assert as_root.call("GET", "/v1/capabilities")[1]["other_users"] is True
    assert as_root.exec("id -u; cat /workspace/hers", user="ana")["stdout"] == f"{ANA}\ntext"
    assert as_root.exec("stat -c %U /workspace/hers")["stdout"] == "ana\n"
    status = as_root.exec("grep -E '^(Cap(Eff|Prm|Inh|Amb)|Groups)' /proc/self/status", user="ana")["stdout"]
    assert {line.split()[1] for line in status.splitlines()} == {"0" * 16, str(ANA)}


def test_processes_of_every_user_are_ended(as_root: Container) -> None:
    asked = {"command": "setsid sleep 987 & sleep 987", "shell": True, "user": "ana", "timeout_secs": 1}
    ended = as_root.call("POST", "/v1/exec", asked)
    assert ended[0] == 504
    assert as_root.exec("grep -lsz '^987' /proc/[0-9]*/cmdline; true")["stdout"] == ""


def test_the_command_of_the_image_runs_beside_it_and_both_end_well(engine: Engine, built: Built) -> None:
    script = "echo begun; trap 'echo ended; exit 3' TERM; while :; do sleep 0.05; done"
    container = engine.start(built.image, *HARDENED, command=("sh", "-c", script), DRAIN_NOTICE="0")
    container.exec("setsid sleep 1000 >/dev/null 2>&1 &")
    status, seconds = container.stop()
    assert (status, seconds < 10 * UNIT) == (0, True)
    assert re.findall("^(?:begun|ended)$", container.log(), re.MULTILINE) == ["begun", "ended"]


def test_its_drain_lets_a_running_request_finish(engine: Engine, built: Built) -> None:
    container = engine.start(built.image, *AS_ROOT)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(container.exec, "touch /workspace/begun; sleep 1; echo finished")
        assert eventually(lambda: container.call("POST", "/v1/files/exists", {"path": "/workspace/begun"})[1]["exists"])
        status, seconds = container.stop()
    assert (status, running.result()["stdout"]) == (0, "finished\n")
    assert seconds < 20 * UNIT
