"""The tree /opt/agentd with an interpreter of its own, in an image that has nothing but busybox, and in pods."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UNIT
from tests.deploy.engine import TOKEN, Container, Engine
from tests.deploy.images import Built
from tests.deploy.test_image import HARDENED, put

MOST_BYTES = 90e6
BASE = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM"}
INSTALL = """\
  initContainers:
  - name: install
    image: {image}
    volumeMounts: [{{name: agentd, mountPath: /install}}]
"""
# What images set for programs of their own, and what must not lead the daemon astray.
MISLEADING = ("LD_LIBRARY_PATH=/lib", "PYTHONHOME=/nowhere", "PYTHONPATH=/nowhere", "PYTHONSTARTUP=/nowhere")

pytestmark = pytest.mark.timeout(300 * UNIT)


@pytest.fixture(scope="module")
def bare(engine: Engine, built: Built) -> Container:
    return engine.start(built.bare, *HARDENED, *(f"--env={one}" for one in MISLEADING))


def test_it_is_small_and_starts_fast(engine: Engine, built: Built, bare: Container) -> None:
    size = engine.size(built.tree)
    print(f"\nthe relocatable tree: {size / 1e6:.1f} MB; {bare.start_told()}", file=sys.stderr)
    assert size < MOST_BYTES
    assert bare.seconds < 10 * UNIT


def test_it_serves_where_there_is_busybox_alone(bare: Container, tmp_path: Path) -> None:
    content = os.urandom(10 << 20)
    (tmp_path / "sent").write_bytes(content)
    put(bare, tmp_path / "sent", "/workspace/sent")
    found = bare.exec("busybox sha256sum sent", cwd="/workspace")["stdout"]
    assert found.split() == [hashlib.sha256(content).hexdigest(), "sent"]
    assert bare.call("POST", "/v1/files/find", {"path": "/workspace", "pattern": "^nothing$"})[0] == 200


def test_its_children_inherit_nothing_of_it(bare: Container) -> None:
    lines = bare.exec("env")["stdout"].splitlines()
    assert {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "_", "OLDPWD"} == BASE
    assert bare.exec("busybox ls -l /proc/self/fd | busybox grep -c opt/agentd; true")["stdout"] == "0\n"
    assert "/opt/agentd" not in bare.exec("cat /proc/self/maps")["stdout"]


def test_code_needs_an_interpreter_of_the_image(bare: Container) -> None:
    status, told = bare.call("POST", "/v1/code/execute", {"code": "1 + 1"})
    assert (status, told["code"]) == (501, "not_implemented")
    assert "python3" in told["error"]
    status, told = bare.call("POST", "/v1/code/execute", {"code": "echo $((1 + 1))", "language": "sh"})
    assert (status, '"text":"2' in str(told)) == (200, True)


def test_it_says_that_it_is_well_and_ends_well(engine: Engine, built: Built) -> None:
    container = engine.start(built.bare, "--read-only", "--tmpfs=/workspace", command=("sleep", "1000"))
    container.podman("exec", container.name, "/opt/agentd/bin/agentd", "health")
    status, seconds = container.stop()
    assert (status, seconds < 10 * UNIT) == (0, True)


def pod(image: str, place: Path, installer: str | None = None) -> str:
    """The Pod that ``agentd manifest kubernetes`` prints, with volumes that this podman knows: directories of
    ``place``. installer: an image that puts /opt/agentd into a volume first."""
    command = [sys.executable, "-m", "agentd", "manifest", "kubernetes", "--kind=pod", "--name=box", "--image", image]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (text,) = [one for one in printed.split("---\n") if "\nkind: Pod\n" in one]
    # A unix socket for the tests, and no port with a name, which podman would open on the machine.
    changes = {
        '"0.0.0.0:8811"': '"0.0.0.0:8811,unix:/shared/socket"',
        "    ports:\n    - name: agentd\n      containerPort: 8811\n": "",
        "port: agentd": "port: 8811",
    }
    mounts, paths, more = {"shared": "/shared"}, ["workspace", "tmp", "token", "shared"], ""
    if installer is not None:
        changes[f'image: "{image}"\n'] = f'image: "{image}"\n    command: [/opt/agentd/bin/agentd, serve, --]\n'
        mounts["agentd"] = "/opt/agentd"
        more = INSTALL.format(image=installer)
    text, _, _ = text.partition("  volumes:\n")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    text += "".join(f"    - {{name: {name}, mountPath: {path}}}\n" for name, path in mounts.items())
    # Otherwise this podman starts init containers again that have done their work.
    text += f"  restartPolicy: Never\n{more}  volumes:\n"
    text += "".join(f"  - {{name: {name}, hostPath: {{path: {place / name}}}}}\n" for name in paths)
    return text + ("  - {name: agentd, persistentVolumeClaim: {claimName: box-agentd}}\n" if more else "")


@pytest.fixture
def place(engine: Engine) -> Iterator[Path]:
    """The volumes of a pod, which is removed after the test."""
    top = engine.shared / "pod"
    for volume in ("shared", "workspace", "tmp", "token"):
        (top / volume).mkdir(parents=True)
        (top / volume).chmod(0o777)
    (top / "token/token").write_text(TOKEN)
    (top / "shared/token").write_text(TOKEN)
    yield top
    engine.podman("pod", "rm", "--all", "--force", "--time=0")
    engine.run("rm", "-r", top)


@pytest.mark.parametrize("kind", ["the image itself", "an init container"])
def test_the_printed_pod_serves(engine: Engine, built: Built, place: Path, kind: str) -> None:
    whole = kind == "the image itself"
    manifest = place / "pod.yaml"
    manifest.write_text(pod(built.image, place) if whole else pod(built.busybox, place, built.tree))
    engine.podman("kube", "play", "--network=none", manifest)
    container = Container(engine, "box-sandbox", place / "shared/socket")
    container.wait_until_ready()
    put(container, manifest, "/workspace/pod.yaml")
    assert container.exec("cat /workspace/pod.yaml")["stdout"] == manifest.read_text()
    assert (place / "workspace/pod.yaml").stat().st_uid == 1000
    assert container.exec("id -u")["stdout"] == "1000\n"
    assert container.stop()[0] == 0
