"""Images without a registry: a base of Debian packages, and on it the Containerfile's targets, built offline."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.deploy.engine import BUILD_SECONDS, PROGRAMS, Engine, running_engine

CHECKOUT = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"
DEBIAN = (
    "base-files,base-passwd,busybox-static,coreutils,dash,findutils,grep,libc-bin,libstdc++6,patchelf,python3,"
    "python3-minimal,sed"
)
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
ANA = 1001
PASSWD = f"root:x:0:0::/root:/bin/sh\nana:x:{ANA}:{ANA}::/home/ana:/bin/sh\n"
# Programs that busybox is, in an image that has nothing else.
APPLETS = ("sh", "cat", "env", "id", "sleep")


class Built(msgspec.Struct, frozen=True):
    """Names of images. base: what ``image`` stands on. tree: the relocatable one. bare: has it, and busybox alone."""

    base: str
    image: str
    tree: str
    busybox: str
    bare: str


def packages() -> list[str]:
    """Those of the lock that the Containerfile asks for."""
    text = (CHECKOUT / "Containerfile").read_text().replace("\\\n", " ")
    found = re.search(r'^ARG PACKAGES="([^"]*)"', text, re.MULTILINE)
    assert found is not None
    return found[1].split()


@pytest.fixture(scope="session")
def engine(needs: Callable[..., None]) -> Iterator[Engine]:
    needs(*PROGRAMS)
    if os.geteuid() != 0:
        pytest.skip("namespaces and base images take root")
    with running_engine() as running:
        yield running


@pytest.fixture(scope="session")
def context(engine: Engine) -> Path:
    """The build context, with wheels that pip has checked; and beside it the base's files, as base.tar."""
    top = engine.top / "context"
    top.mkdir()
    for name in ("Containerfile", ".containerignore", "requirements.lock"):
        shutil.copy(CHECKOUT / name, top)
    shutil.copytree(CHECKOUT / "agentd", top / "agentd", ignore=shutil.ignore_patterns("__pycache__"))
    jobs = [_debian(engine.top), _wheels(top)]
    for job in jobs:
        _, told = job.communicate(timeout=BUILD_SECONDS)
        assert job.returncode == 0, told
    return top


@pytest.fixture(scope="session")
def built(engine: Engine, context: Path) -> Built:
    base = "localhost/base"
    engine.podman("import", "-q", engine.top / "base.tar", base)
    image = engine.build(context, "agentd", f"--build-arg=BASE={base}")
    tree = engine.build(context, "agentd-tree", f"--build-arg=BASE={base}", "--target=relocatable")
    return Built(base, image, tree, *_busybox(engine, tree))


def _debian(top: Path) -> "subprocess.Popen[str]":
    sources = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")][0]
    (top / "passwd").write_text(PASSWD)
    users = f'--extract-hook=cp {top}/passwd "$1/etc/passwd"'
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={DEBIAN}", users, SUITE, f"{top}/base.tar"]
    return _started([*command, str(sources)], {"TMPDIR": f"{top}/tmp"})


def _wheels(context: Path) -> "subprocess.Popen[str]":
    entries = re.split(r"\n(?=\S)", (context / "requirements.lock").read_text())
    wanted = context.parent / "wanted.lock"
    wanted.write_text("\n".join(entry for entry in entries if entry.partition("==")[0] in packages()) + "\n")
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    command += [f"--abi={abi}" for abi in ("cp" + PYTHON.replace(".", ""), "abi3", "none")]
    command += [f"--platform={platform}_{os.uname().machine}" for platform in PLATFORMS] + ["--platform=any"]
    return _started([*command, "-d", f"{context}/wheels", "-r", str(wanted)], {})


def _started(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def _busybox(engine: Engine, tree: str) -> tuple[str, str]:
    """An image that has busybox alone, and the same as the README says that any image gets the daemon."""
    place = engine.top / "busybox"
    place.mkdir()
    engine.run("tar", "-C", place, "-xf", engine.top / "base.tar", "./bin/busybox")
    for applet in APPLETS:
        (place / "bin" / applet).symlink_to("busybox")
    (place / "Containerfile").write_text("FROM scratch\nCOPY bin /bin\n")
    busybox = engine.build(place, "busybox")
    start = 'ENTRYPOINT ["/opt/agentd/bin/agentd", "serve", "--"]'
    (place / "Containerfile").write_text(f"FROM {busybox}\nCOPY --from={tree} /opt/agentd /opt/agentd\n{start}\n")
    return busybox, engine.build(place, "busybox-agentd")
