"""The printed Pod in the hands of a kubelet, of which podman is but a part: here the tests do what else it does."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import UNIT
from tests.deploy.engine import Container, Engine
from tests.deploy.images import Built
from tests.deploy.test_image import put
from tests.deploy.test_relocatable import place as place
from tests.deploy.test_relocatable import pod
from tests.process.harness.waiting import eventually

pytestmark = pytest.mark.timeout(300 * UNIT)


def number(name: str, manifest: str) -> int:
    return int(re.findall(rf"\b{name}: ([0-9]+)", manifest)[0])


@pytest.fixture
def manifest(built: Built, place: Path) -> str:
    return pod(built.image, place)


@pytest.fixture
def started(engine: Engine, place: Path, manifest: str) -> Container:
    """With volumes that belong to root, and to ``fsGroup`` as a kubelet sees to it (SetVolumeOwnership): directories
    get the group, rwx for it and the set-group-id bit, a Secret's files the group and their mode."""
    group = number("fsGroup", manifest)
    for name, mode in (("workspace", 0o2775), ("tmp", 0o2777), ("token", 0o2775)):
        os.chown(place / name, 0, group)
        (place / name).chmod(mode)
    os.chown(place / "token/token", 0, group)
    (place / "token/token").chmod(0o440)
    (place / "pod.yaml").write_text(manifest)
    engine.podman("kube", "play", "--network=none", place / "pod.yaml")
    container = Container(engine, "box-sandbox", place / "shared/socket")
    container.wait_until_ready()
    return container


def test_a_volume_that_is_the_group_s_alone_is_enough(place: Path, started: Container) -> None:
    put(started, place / "pod.yaml", "/workspace/in/pod.yaml")
    made = (place / "workspace/in/pod.yaml").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1000)
    own = (place / "workspace/.nullspace").stat()
    assert (own.st_uid, own.st_mode & 0o777) == (1000, 0o700)
    assert started.exec("touch /tmp/x && echo text > mine && cat mine", cwd="/workspace")["stdout"] == "text\n"


def test_it_passes_the_probes_of_the_manifest(manifest: str, started: Container) -> None:
    probes = dict(re.findall(r"(\w+)Probe:\n +httpGet: {path: ([^,]+), port: 8811}", manifest))
    assert probes == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert {started.call("GET", path, token=None)[0] for path in probes.values()} == {200}


def test_what_runs_at_the_end_has_its_time_and_nobody_new_is_sent(manifest: str, started: Container) -> None:
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(started.exec, "touch /workspace/begun; sleep 5; echo finished")
        assert eventually(lambda: started.call("POST", "/v1/files/exists", {"path": "/workspace/begun"})[1]["exists"])
        started.podman("exec", started.name, "sleep", str(number("seconds", manifest)))  # preStop
        assert started.call("GET", "/readyz")[0] == 200
        before = time.monotonic()
        ending = pool.submit(started.stop, number("terminationGracePeriodSeconds", manifest))
        assert eventually(lambda: started.call("GET", "/readyz")[0] == 503)
        assert started.call("GET", "/livez")[0] == 200
        assert (running.result()["stdout"], ending.result()[0]) == ("finished\n", 0)
    assert time.monotonic() - before < number("terminationGracePeriodSeconds", manifest)
