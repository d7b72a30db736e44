"""podman and buildah, which leave nothing behind: they run in namespaces of their own, without a network, and keep all
they have in one directory. When the one process that holds the namespaces is gone, so are containers and mounts."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import ANSWER_SECONDS, STOP_SECONDS, UNIT
from tests.process.harness.waiting import eventually

PROGRAMS = ("podman", "buildah", "runc", "catatonit", "mmdebstrap", "unshare", "nsenter", "setpriv")
BUILD_SECONDS = 180 * UNIT
TOKEN = "token-of-the-tests"

# runc, because crun refuses hybrid cgroups; and limits that a root without CAP_SYS_RESOURCE may set.
CONTAINERS = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{top}/storage/images"
runroot = "{top}/storage/run"
"""
# Images, and what would be left in /run and /dev/shm, are in memory and go with the namespace. catatonit reaps.
HOLDER = """
set -eu
mount -t tmpfs -o size=4g tmpfs "$1/storage"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
echo ready
exec catatonit -P
"""
# Of control groups, version 2 and 1.
PARENTS = ("libpod_parent", "*/libpod_parent")


class Engine:
    """top: the directory; its ``shared`` is what containers may share with the tests."""

    def __init__(self, top: Path, leader: int) -> None:
        self.top = top
        self.shared = top / "shared"
        self._leader = leader
        self._containers = 0
        for place, mode in ((self.shared, 0o1777), (top / "tmp", 0o1777)):
            place.mkdir()
            place.chmod(mode)
        (top / "containers.conf").write_text(CONTAINERS)
        (top / "storage.conf").write_text(STORAGE.format(top=top))
        self._environment = {
            **os.environ,
            "TMPDIR": f"{top}/tmp",
            "CONTAINERS_CONF": f"{top}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{top}/storage.conf",
        }

    def run(self, *command: str | Path, check: bool = True, seconds: float = BUILD_SECONDS) -> str:
        """Standard output; where the command fails, or ``check`` is off, with standard error behind it."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-p", "-n", "--", *map(str, command)]
        done = subprocess.run(enter, capture_output=True, text=True, timeout=seconds, env=self._environment)
        assert done.returncode == 0 or not check, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip() if check else done.stdout + done.stderr

    def podman(self, *words: str | Path, check: bool = True) -> str:
        return self.run("podman", *words, check=check)

    def build(self, context: Path, tag: str, *flags: str, check: bool = True) -> str:
        """The image's name, which is ``localhost/TAG``."""
        flags = ("--isolation", "chroot", "--layers", "--format", "docker", *flags)
        told = self.run("buildah", "bud", "-q", *flags, "-t", f"localhost/{tag}", context, check=check)
        return f"localhost/{tag}" if check else told

    def start(self, image: str, *flags: str, command: tuple[str, ...] = (), **settings: str) -> "Container":
        """A container that answers. settings: of the daemon, as in its environment, without ``AGENTD_``."""
        self._containers += 1
        name = f"agentd-{self._containers}"
        (self.shared / name).mkdir()
        (self.shared / name).chmod(0o1777)
        (self.shared / name / "token").write_text(TOKEN)
        variables = {"LISTEN": "0.0.0.0:8811,unix:/shared/socket", "TOKEN_FILE": "/shared/token", **settings}
        environment = [f"--env=AGENTD_{key}={value}" for key, value in variables.items()]
        mounts = ["--network=none", f"--volume={self.shared / name}:/shared"]
        self.podman("create", "--name", name, *mounts, *environment, *flags, image, *command)
        container = Container(self, name, self.shared / name / "socket")
        self.podman("start", name)
        container.wait_until_ready()
        return container

    def size(self, image: str) -> int:
        """Bytes, of all its layers."""
        return int(self.podman("image", "inspect", "--format", "{{.Size}}", image))


class Container:
    """A daemon in a container (of a pod, too), spoken to through a unix socket that it shares with the tests.

    seconds: from the start of its first process to the first 200, of which cpu_seconds it was not waiting."""

    def __init__(self, engine: Engine, name: str, path: Path) -> None:
        self.name = name
        self.url = f"unix:{path}"
        self._engine = engine
        self._path = path
        self.seconds = self.cpu_seconds = 0.0

    def wait_until_ready(self) -> None:
        assert eventually(self._answers), self.log()
        answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        # From the third field on (proc_pid_stat(5)); the 22nd is when it started, in clock ticks since the machine did.
        fields = self.podman("exec", self.name, "cat", "/proc/1/stat").rpartition(")")[2].split()
        used, system, started = (int(fields[number - 3]) / os.sysconf("SC_CLK_TCK") for number in (14, 15, 22))
        self.seconds, self.cpu_seconds = answered - started, used + system

    def podman(self, *words: str) -> str:
        return self._engine.podman(*words)

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = TOKEN
    ) -> tuple[int, Any]:
        """Status and, where it is JSON, the body of the answer, else its text."""
        connection = _Unix(self._path)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            headers["Content-Type"] = "application/json"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text
        finally:
            connection.close()

    def start_told(self) -> str:
        return f"first 200 after {self.seconds:.2f} s, {self.cpu_seconds:.2f} s of CPU"

    def exec(self, command: str, **more: Any) -> Any:
        """The answer to a command for the shell."""
        status, answer = self.call("POST", "/v1/exec", {"command": command, "shell": True, **more})
        assert status == 200, answer
        return answer

    def log(self) -> str:
        return self._engine.podman("logs", self.name, check=False)

    def inspect(self, what: str) -> str:
        return self.podman("inspect", "--format", f"{{{{.{what}}}}}", self.name)

    def stop(self, grace: int = int(STOP_SECONDS)) -> tuple[int, float]:
        """Exit status, and how many seconds it took."""
        before = time.monotonic()
        self.podman("stop", "--time", str(grace), self.name)
        return int(self.inspect("State.ExitCode")), time.monotonic() - before

    def _answers(self) -> bool:
        with suppress(OSError):
            return self.call("GET", "/livez")[0] == 200
        return False


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def running_engine() -> Iterator[Engine]:
    """In a directory whose path is short: sockets are in it."""
    before = _cgroups()
    top = Path(tempfile.mkdtemp(prefix="agentd-", dir="/var/tmp"))
    top.chmod(0o755)
    (top / "storage").mkdir()
    alone = ["unshare", "--mount", "--pid", "--net", "--mount-proc", "--propagation=private", "--fork"]
    command = ["setpriv", "--pdeathsig=KILL", *alone, "--kill-child=KILL", "sh", "-c", HOLDER, "holder", top]
    holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        engine = Engine(top, int(children[0]))
        try:
            yield engine
        finally:  # cgroups are not in the namespaces
            engine.podman("pod", "rm", "--all", "--force", "--time=0", check=False)
            engine.podman("rm", "--all", "--force", "--time=0", check=False)
    finally:
        holder.kill()
        with holder:
            pass
        shutil.rmtree(top)
        eventually(lambda: _without_cgroups(_cgroups() - before))


def _cgroups() -> set[str]:
    parents = [path for pattern in PARENTS for path in Path("/sys/fs/cgroup").glob(pattern)]
    return {top for parent in parents for top, _, _ in os.walk(parent)}


def _without_cgroups(left: set[str]) -> bool:
    """Whether none of them is left, once what was in them is gone."""
    with suppress(OSError):
        for path in sorted(left, reverse=True):
            os.rmdir(path)
        return True
    return False
