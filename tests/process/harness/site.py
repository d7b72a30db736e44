"""A sandbox on the disk, the daemon in it, and what has to be true of both after the daemon died."""

import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentd.failpoints import VARIABLE
from tests.conftest import UNIT, Daemon, StartDaemon
from tests.process.harness.sender import NO_ANSWER, Refused, Sender
from tests.process.harness.shapes import PART_SIZE, SIZE, Shape, is_whole
from tests.process.harness.trees import Tree, seen
from tests.process.harness.waiting import eventually

DEATH_SECONDS = 10 * UNIT


@dataclass
class Site:
    """The daemon serves ``/``, as in a sandbox, but its workspace is ``place``. away: a directory on another file
    system, where there is one.

    The quota is that of one upload, so that each one after it proves that the one before gave its space back.
    """

    start_daemon: StartDaemon
    place: Path
    away: Path | None
    durability: str = "process"
    _daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None, "no daemon was started here yet"
        return self._daemon

    @property
    def reserved(self) -> Path:
        return self.place / ".nullspace"

    @property
    def uploads(self) -> Path:
        return self.reserved / "uploads/v1"

    def start(self, failpoint: str = "", *more: str) -> Daemon:
        """The first or the next daemon of the place, with ``failpoint`` armed and ``more`` flags."""
        flags = ["--insecure", "--workspace", str(self.place), "--uploads-part-size", str(PART_SIZE)]
        flags += ["--uploads-durability", self.durability, "--uploads-quota-bytes", str(SIZE), *more]
        if self._daemon is None:
            self._daemon = self.start_daemon(*flags, root=Path("/"), environment={VARIABLE: failpoint})
        else:
            self._daemon.restart(*flags, environment={VARIABLE: failpoint})
        return self.daemon

    def check_died(self) -> None:
        """The failpoint was reached: the daemon has killed itself."""
        try:
            assert self.daemon.process.wait(DEATH_SECONDS) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            raise AssertionError("the failpoint was never reached") from None

    def left(self) -> list[str]:
        """What is there of any upload, ended ones included."""
        places = (self.uploads, self.reserved / "quarantine")
        return [str(path.relative_to(self.reserved)) for place in places for path in place.iterdir()]


class Story:
    """One upload of ``shape`` in ``site``, from before its first request to after its last trace."""

    def __init__(self, site: Site, shape: Shape) -> None:
        self.site = site
        self.shape = shape
        place = site.away if shape.elsewhere else site.place
        if place is None:
            pytest.skip("there is no other file system here")
        self.target = place / "parent/target"
        self.sender = Sender(self.target, shape.content, shape.kind, shape.conflict)
        shape.prepare(self.target)
        self.before: Tree = seen(self.target)
        self.after = shape.after(self.before, site.place / "scratch")

    def live(self, daemon: Daemon, end: str) -> None:
        """The upload is sent and then ended as ``end`` says: ``complete``, ``abort``, or by ``expire`` alone."""
        self.sender.send(daemon)
        if end == "complete":
            self.sender.complete(daemon)
        elif end == "abort":
            self.sender.abort(daemon)

    def die(self, failpoint: str, end: str, *more: str) -> None:
        """A daemon's life up to its death at ``failpoint``: at its start, on its own, or while it serves."""
        try:
            daemon = self.site.start(failpoint, *more)
            with suppress(*NO_ANSWER):
                self.live(daemon, end)
        except RuntimeError as ended:  # before it was ready
            if not str(ended).startswith(f"the daemon ended with {-signal.SIGKILL:d}:"):
                raise
        self.site.check_died()
        self.check_target()

    def stumble(self, failpoint: str, end: str, *more: str) -> None:
        """A daemon's life with a fault at ``failpoint``, which it survives and tells the client or the log."""
        daemon = self.site.start(failpoint, *more)
        told = False
        try:
            self.live(daemon, end)
        except Refused as refused:
            told = refused.answer.status >= 500
        assert told or eventually(lambda: f"failpoint {failpoint.partition('=')[0]}" in str(daemon.log()))
        self.check_target()
        assert daemon.term() == 0

    def check_kept(self) -> None:
        """Nothing that was acknowledged is lost, and the target is not torn."""
        self.check_target()
        if self.sender.session:
            with suppress(Refused):
                self.sender.status(self.site.daemon)

    def check_target(self) -> None:
        by_entries = self.shape.conflict == "merge" and not self.shape.is_file and bool(self.before)
        now = {name: one for name, one in seen(self.target).items() if "/.agentd-" not in f"/{name}"}
        assert is_whole(now, self.before, self.after, by_entries=by_entries), now

    def finish(self, end: str) -> None:
        """The client goes on where it was, to the end; no part that was accepted is sent again."""
        if end == "abort" and self._status() != "forgotten":
            self.sender.abort(self.site.daemon)
            self.sender.abort(self.site.daemon)
        if end != "complete":
            assert eventually(lambda: self._status() in ("aborted", "expired", "forgotten"))
            self.sender = self.sender.renewed()
        self.sender.send(self.site.daemon)
        first = self.sender.complete(self.site.daemon)
        assert first == self.sender.complete(self.site.daemon)
        assert first["session"]["status"] == "completed"
        assert seen(self.target) == self.after

    def _status(self) -> str:
        try:
            return str(self.sender.status(self.site.daemon)["status"])
        except Refused as refused:
            return "forgotten" if refused.answer.status == 404 else refused.reason

    def check_gone(self) -> None:
        """Only the record of its end is left, and its space is free again."""
        daemon = self.site.daemon
        probe = Sender(self.site.place / "probe", bytes(SIZE))
        probe.create(daemon)
        probe.abort(daemon)
        assert daemon.term() == 0
        assert seen(self.target) == self.after
        assert [path.name for path in self.target.parent.iterdir()] == ["target"]
        assert {path.name for path in self.site.uploads.rglob("*") if not path.is_dir()} == {"journal"}
        assert not [name for name in self.site.left() if "/up_" not in name]

    def check_forgotten(self) -> None:
        """After the retention not even that is left."""
        self.site.start("", "--uploads-retention", "0")
        assert eventually(lambda: not self.site.left()), self.site.left()
