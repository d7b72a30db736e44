"""A machine with a real systemd: this one's own root, read-only below an overlay in memory, booted in a container.

Everything hangs on one process, in namespaces of its own: when that is gone, however it went, so are the mounts and
whatever ran in there. The network is shared, so what listens in there is reached from here.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import UNIT

PROGRAMS = ("systemd-nspawn", "systemd-analyze", "unshare", "nsenter", "setpriv")
BOOT_SECONDS = 60 * UNIT
COMMAND_SECONDS = 60 * UNIT

CHECKOUT = Path(__file__).parents[2]
PROGRAM = "/opt/agentd/bin/agentd"
# As an installation would have it, but with the tests' own packages and this checkout.
LAUNCHER = """\
#!/opt/packages/bin/python
import sys
sys.path.insert(0, "/opt/checkout")
from agentd.__main__ import main
sys.exit(main())
"""
HIERARCHIES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))

SCRIPT = r"""
set -eu
top=$1 name=$2 program=$3 launcher=$4
shift 4
for group in "$@"; do mkdir "$group" && echo $$ >"$group/cgroup.procs"; done
# What systemd-nspawn leaves behind there goes with the rest.
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs -o size=1g,mode=755 tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
# Nothing of this machine's own starts.
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires
echo 00000000000000000000000000000001 >etc/machine-id
mkdir -p "$(dirname ".$program")" opt/packages opt/checkout
printf '%s' "$launcher" >".$program"
chmod 755 ".$program"
exec systemd-nspawn --quiet --directory="$top/root" --machine="$name" --boot --register=no --keep-unit --console=pipe \
  --resolv-conf=off --link-journal=no --notify-ready=yes --set-credential=agentd.token:"$TOKEN" \
  --bind-ro="$PACKAGES:/opt/packages" --bind-ro="$CHECKOUT:/opt/checkout" -- --unit=basic.target
"""


class Machine:
    """leader: its first process, as it is seen from here. root: its files. credential: what it was given at boot, as
    ``agentd.token``."""

    def __init__(self, process: subprocess.Popen[bytes], credential: str) -> None:
        self.process = process
        self.credential = credential
        self.leader = _only_child(_only_child(process.pid))
        self.root = Path(f"/proc/{self.leader}/root")

    def run(self, *command: str, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
        """Standard output and error of a command in there."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-p", "-u", "-i", "-C", "-r", "-w", "--", *command]
        done = subprocess.run(
            ["timeout", "-k", "1", str(seconds), *enter],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        text = done.stdout.decode()
        assert done.returncode == 0 or not check, f"{command} ended with {done.returncode}: {text}"
        return text

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit (systemctl show)."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--output=cat", "--no-pager", f"--unit={unit}")


@contextmanager
def booted(top: Path) -> Iterator[Machine]:
    """``top``: an empty directory, which holds the mounts while it runs."""
    name = f"agentd-test-{secrets.token_hex(6)}"
    groups = [place / name for place in HIERARCHIES if (place / "cgroup.procs").exists()]
    credential = secrets.token_urlsafe(16)
    shown = top.with_name(f"{top.name}.log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, shown.open("wb") as log:
        ready.bind(f"\0{name}")
        ready.settimeout(BOOT_SECONDS)
        alone = ["unshare", "--mount", "--pid", "--mount-proc", "--propagation=private", "--fork", "--kill-child=KILL"]
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=KILL", *alone),
                *("bash", "-c", SCRIPT, "boot", str(top), name, PROGRAM, LAUNCHER, *map(str, groups)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "NOTIFY_SOCKET": f"@{name}",
                "TOKEN": credential,
                "PACKAGES": sys.prefix,
                "CHECKOUT": str(CHECKOUT),
            },
        )
        try:
            _wait_until_ready(ready, process, shown)
            yield Machine(process, credential)
        finally:
            _end(process)
            for group in groups:
                _remove(group)


def _wait_until_ready(ready: socket.socket, process: subprocess.Popen[bytes], shown: Path) -> None:
    try:
        while b"READY=1" not in ready.recv(4096).split(b"\n"):
            pass
    except TimeoutError:
        raise TimeoutError(f"no boot: {process.poll()}, {shown.read_text(errors='replace')}") from None


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _only_child(pid: int) -> int:
    (child,) = _children(pid)
    return child


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the first process of the namespace, which is gone only once all others in it are."""
    if process.poll() is None:
        for pid in _children(process.pid) or [process.pid]:
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _remove(group: Path) -> None:
    """A cgroup with all below it, which are empty."""
    for place in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        place.rmdir()
    group.rmdir()
