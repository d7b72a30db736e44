"""A sandbox in a directory, seen through each of the two resolvers."""

import ctypes
import os
import platform
import shutil
import threading
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.errors import AgentError
from agentd.linux.identity import Identity
from agentd.linux.launcher import CODE, PYTHON, Launcher, native
from agentd.linux.root import Root

BOB, EVE = 40001, 40002


@pytest.fixture
def bob() -> Identity:
    return Identity(BOB, BOB, (BOB,), "bob", "/home/bob")


@pytest.fixture
def eve() -> Identity:
    return Identity(EVE, EVE, (EVE,), "eve", "/home/eve")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The sandbox's / on this machine: bob and eve, a workspace open to all, the reserved tree, a private place."""
    top = tmp_path / "top"
    for name, mode in (("", 0o755), ("etc", 0o755), ("workspace", 0o777), ("workspace/.nullspace", 0o700)):
        directory = top / name
        directory.mkdir()
        directory.chmod(mode)
    (top / "private").mkdir(mode=0o700)
    for secret in (tmp_path / "secret", top / "private/secret", top / "workspace/.nullspace/secret"):
        secret.write_text("secret")
    (top / "etc/passwd").write_text(f"bob:x:{BOB}:{BOB}::/home/bob:/bin/sh\neve:x:{EVE}:{EVE}::/home/eve:/bin/sh\n")
    (top / "etc/group").write_text("")
    return top


@pytest.fixture(params=["openat2", "walk"])
def root(request: pytest.FixtureRequest, top: Path) -> Iterator[Root]:
    root = Root(str(top), use_openat2=request.param == "openat2")
    fd = os.open(top / "workspace/.nullspace", os.O_PATH)
    root.reserve(fd)
    os.close(fd)
    yield root
    root.close()


@pytest.fixture
def read(root: Root) -> Callable[..., str]:
    """The text of the file that a path names."""

    def text(path: str, **kwargs: tuple[Identity, ...]) -> str:
        with root.open(path, os.O_RDONLY, **kwargs) as opened:
            return os.read(opened.fd, 100).decode()

    return text


@pytest.fixture
def link(top: Path) -> Callable[..., Path]:
    """Makes a symbolic link at a sandbox path, which belongs to a uid."""

    def make(path: str, target: str, owner: int = 0) -> Path:
        place = top / path.lstrip("/")
        place.symlink_to(target)
        os.chown(place, owner, owner, follow_symlinks=False)
        return place

    return make


@pytest.fixture(params=["machine code", "python", "aarch64"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Launcher]:
    """Each that programs are started by; the one for the other machine in an emulator."""
    if request.param == "python":
        yield PYTHON
    elif request.param == platform.machine():
        pytest.skip("that is the machine code of this machine")
    elif request.param in CODE:
        if (emulator := shutil.which(f"qemu-{request.param}-static")) is None:
            pytest.skip("no emulator")
        place = tmp_path / "launcher"
        place.write_bytes(a2b_base64(CODE[request.param]))
        place.chmod(0o755)
        yield Launcher((emulator, str(place)), emulator)
    else:
        made = native()
        yield made
        os.close(made.fd)


@pytest.fixture
def unprivileged() -> Callable[[Callable[[], object]], object]:
    """Runs a function in a thread whose uids and gids are all bob's, as in a daemon that bob started: its result."""

    def run(fn: Callable[[], object]) -> object:
        outcome: list[object] = []

        def job() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            setresgid, setresuid = {"x86_64": (119, 117), "aarch64": (149, 147)}[os.uname().machine]
            assert libc.syscall(116 if setresuid == 117 else 159, 0, None) == 0
            assert libc.syscall(setresgid, BOB, BOB, BOB) == 0
            assert libc.syscall(setresuid, BOB, BOB, BOB) == 0
            try:
                outcome.append(fn())
            except AgentError as error:
                outcome.append(error)

        thread = threading.Thread(target=job)
        thread.start()
        thread.join()
        return outcome[0]

    return run
