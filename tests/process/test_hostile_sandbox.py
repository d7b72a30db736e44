"""A sandbox process that swaps directories, files and links as fast as it can gains nothing by any route.

Every line of `tests.asking` is asked for its paths all the time. Nothing outside of the root, nothing of the reserved
tree, and nothing beyond the attacker's own rights may be in an answer, in a place that the attacker can read, or be
changed. How often each route was asked, and what it answered, is printed.
"""

import base64
import hashlib
import http.client
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.asking import ASKS, VARIANTS, Ask, Caller
from tests.conftest import Daemon
from tests.process.harness import attacker
from tests.process.harness.oldkernel import without_openat2

ATTACKER, EVE = 64001, 64002
CALLERS = 6
SECRET = f"secret-{secrets.token_hex(8)} ".encode() * 4
NAME = f"name-{secrets.token_hex(8)}"
WRITTEN = b"new"
LINES = {**{f"{row}:{field}": ask for (row, field), ask in ASKS.items()}, **VARIANTS}
# What these start as root follows the attacker's links with root's rights, as root's own commands do.
OF_THE_USER = ("git.", "sessions.", "code.", "terminals.")
SELDOM = ("git.", "sessions.", "code.", "terminals.", "processes.", "exec_socket.")


class Prey:
    """The sandbox: what the attacker has, and what nobody may touch. canaries: directories that stay as they are."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.top = place / "root"
        self.outside = place / "outside"
        inside = [self.top / name for name in ("private", "etc", "home/eve", "workspace/.nullspace/kept")]
        self.canaries = [self.outside, *inside]
        for canary in self.canaries:
            canary.mkdir(parents=True)
            (canary / NAME).write_bytes(b"")
            (canary / "secret").write_bytes(SECRET)
        for path, mode in ((self.outside, 0o755), (self.top / "private", 0o700), (self.top / "etc", 0o755)):
            path.chmod(mode)
        for name, mode in (("config", 0o644), ("shadow", 0o600), ("secret", 0o600)):
            (self.top / "etc" / name).write_bytes(b"harmless" if name == "config" else SECRET)
            (self.top / "etc" / name).chmod(mode)
        (self.top / "etc/passwd").write_text(f"attacker:x:{ATTACKER}:{ATTACKER}::/workspace:/bin/sh\n")
        (self.top / "etc" / NAME).unlink()
        for path in (self.top / "home/eve", *(self.top / "home/eve").iterdir()):
            os.chown(path, EVE, EVE)
        (self.top / "home/eve").chmod(0o700)
        (self.top / "workspace/.nullspace").chmod(0o700)
        (self.top / "tmp").mkdir()
        (self.top / "tmp").chmod(0o1777)
        (self.top / "tmp/roots").write_bytes(SECRET)
        (self.top / "tmp/roots").chmod(0o600)
        (self.top / "workspace/arena").mkdir()
        for path in (self.top / "workspace", self.top / "workspace/arena"):
            os.chown(path, ATTACKER, ATTACKER)
        self.reserved = os.open(self.top / "workspace/.nullspace", os.O_PATH)

    def state(self) -> dict[str, Any]:
        """All that must stay: names, contents, owners, modes, times, attributes."""
        places = [one for canary in self.canaries[:-1] for one in (canary, *canary.rglob("*"))]
        kept = Path(f"/proc/self/fd/{self.reserved}/kept")
        places += [kept, *kept.iterdir(), self.top / "tmp/roots"]
        found: dict[str, Any] = {str(path): _facts(path) for path in places}
        found["top"] = sorted(set(os.listdir(self.top)) - {"workspace", "tmp"})
        found["place"] = sorted(name for name in os.listdir(self.place) if not name.startswith("stderr"))
        return found

    def leaked(self) -> list[str]:
        """Where the attacker could find what is not his."""
        found = []
        for start in ("workspace", "tmp"):
            for above, directories, files in os.walk(self.top / start):
                directories[:] = [one for one in directories if not self._is_reserved(Path(above, one))]
                for path in (Path(above, name) for name in (*files, *directories)):
                    if path == self.top / "tmp/roots" or path.is_symlink():
                        continue
                    content = path.read_bytes() if path.is_file() else b""
                    if NAME in path.name or SECRET[:20] in content:
                        found.append(str(path))
        return found

    def _is_reserved(self, path: Path) -> bool:
        return path.is_dir() and path.stat().st_ino == os.fstat(self.reserved).st_ino


def _facts(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path)}
    times = (found.st_mtime_ns, found.st_ino, found.st_nlink)
    return (oct(found.st_mode), found.st_uid, found.st_gid, *times, content, attributes)


SIGNS = (
    *(NAME.encode(), SECRET[:20], hashlib.sha256(SECRET).hexdigest().encode()),
    *(base64.b64encode(SECRET[shift:])[:20] for shift in range(3)),
)


class Crowd:
    """Clients that ask for everything at once, until `stop`. told: what was answered; wrong: what must not be."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.told: Counter[tuple[str, str]] = Counter()
        self.wrong: list[tuple[str, str, str, bytes]] = []
        self._daemon = daemon
        self._stop = threading.Event()
        self._first = random.Random(seed).sample(list(LINES.items()), len(LINES))  # each is asked for once at least
        self._threads = [threading.Thread(target=self._ask, args=(random.Random(seed + i),)) for i in range(CALLERS)]

    def run(self, seconds: float) -> None:
        for thread in self._threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, chance: random.Random) -> None:
        caller = Caller(self._daemon)
        lines = list(LINES.items())
        weights = [1 if name.startswith(SELDOM) else 8 for name in LINES]
        while self._first or not self._stop.is_set():
            try:
                name, ask = self._first.pop()
            except IndexError:
                name, ask = chance.choices(lines, weights)[0]
            self._one(caller, name, ask, _path(chance), chance.choice([None, str(ATTACKER), str(EVE)]))
        caller.close()

    def _one(self, caller: Caller, name: str, ask: Ask, path: str, user: str | None) -> None:
        if name.startswith(OF_THE_USER):
            user = str(ATTACKER)
        try:
            answer = ask(caller, path, user=user)
        except (OSError, http.client.HTTPException) as error:
            self.told[name, type(error).__name__] += 1
            if isinstance(error, TimeoutError):
                self.wrong.append((name, path, "TimeoutError", b""))
            return
        self.told[name, str(answer.status)] += 1
        if answer.status == 500 or any(sign in answer.body for sign in SIGNS):
            self.wrong.append((name, path, f"{user} {answer.status}", answer.body[:400]))

    def report(self) -> str:
        rows: dict[str, list[str]] = {}
        for (name, outcome), count in sorted(self.told.items()):
            rows.setdefault(name, []).append(f"{outcome}: {count}")
        return "\n".join(f"{name:40} {', '.join(outcomes)}" for name, outcomes in rows.items())


def _path(chance: random.Random) -> str:
    """Something that is swapped, or is reached by what is swapped."""
    slot = f"/workspace/arena/slot{chance.randrange(len(attacker.DIRECTORIES))}"
    file = f"/workspace/arena/file{chance.randrange(len(attacker.FILES))}"
    below = ["", "/secret", "/deep", "/deep/secret", "/shadow", "/config", f"/new{chance.randrange(9)}", "/deep/new/er"]
    reserved = [f"/workspace/{one}{rest}" for one in ("decoy", ".nullspace") for rest in ("", "/kept", "/kept/secret")]
    others = ["/tmp/file", "/workspace/given", "/workspace/arena", *reserved]
    return chance.choice([slot + chance.choice(below), slot + chance.choice(below), file, chance.choice(others)])


@pytest.fixture(params=["open", "kernel"])
def access(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[Prey]:
    made = Prey(tmp_path)
    yield made
    os.close(made.reserved)


def hunt(prey: Prey, access: str, *, openat2: bool, seconds: float) -> None:
    """The attacker and the crowd at the same time, and what must hold then."""
    flags = ("--user-access", access, "--processes-grace", "0.1", "--limits-json-bytes", "1MiB")

    def start() -> Daemon:
        return Daemon(prey.top, prey.place / "stderr", flags, {})

    daemon = start() if openat2 else without_openat2(start)
    before = prey.state()
    command = [sys.executable, attacker.__file__, str(ATTACKER), str(prey.outside)]
    hostile = subprocess.Popen(command, cwd=prey.top / "workspace/arena", stdout=subprocess.PIPE, text=True)
    crowd = Crowd(daemon, seed=int(seconds))
    try:
        begun = time.monotonic()
        crowd.run(seconds)
        lasted = time.monotonic() - begun
    finally:
        hostile.send_signal(signal.SIGTERM)
        rounds, _ = hostile.communicate()
        ended = daemon.term()
    print(f"{access}, {'openat2' if openat2 else 'the walk'}: {lasted:.1f} s, {rounds.strip()} rounds of swaps")
    print(crowd.report())
    assert crowd.wrong == []
    assert prey.state() == before
    assert prey.leaked() == []
    assert [line for line in daemon.log() if "exception" in line or line.get("status") == 500] == []
    assert ended == 0
    assert int(rounds) > 10
    assert {name for name, _ in crowd.told} == set(LINES)


@pytest.mark.parametrize("access", ["open", "kernel"])
def test_swaps_under_requests_gain_nothing(prey: Prey, access: str) -> None:
    hunt(prey, access, openat2=access == "open", seconds=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("openat2", [True, False], ids=["openat2", "walk"])
@pytest.mark.parametrize("access", ["open", "kernel"])
def test_a_minute_of_swaps_gains_nothing(prey: Prey, access: str, openat2: bool) -> None:
    hunt(prey, access, openat2=openat2, seconds=15)
