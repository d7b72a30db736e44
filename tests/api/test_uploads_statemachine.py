"""Any sequence of calls, crashes and restarts against a plain model: first the engine alone, then a real daemon.

The engine runs in this process and crashes by being dropped with all its work. The daemon is killed by SIGKILL, at a
failpoint within a call where the sequence says so; what it did not answer may have happened or not, and which of the
two is told by a repetition of the call, as a client would.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable, Coroutine
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from agentd.core.conflict import ConflictMode, Kind
from agentd.errors import AgentError, ClientGone, UploadError
from agentd.linux.places import Places
from agentd.linux.reserved import inode
from agentd.linux.root import Root
from agentd.linux.threads import in_thread
from agentd.linux.workspace import open_reserved, open_workspace
from agentd.uploads.archive import ArchiveLimits
from agentd.uploads.publish import Publisher
from agentd.uploads.registry import Uploads
from agentd.uploads.staging import Store
from agentd.uploads.terms import NewUpload, UploadLimits
from tests.api.uploads_model import OK, PART, Model, Session, right, wrong
from tests.conftest import Answer, Daemon
from tests.uploading import Client, reason, sha256

TARGETS = st.sampled_from(["/workspace/a", "/workspace/b", "/workspace/made/c"])
SIZES = st.sampled_from([0, 1, PART, 2 * PART, 3 * PART + 1])
NUMBERS = st.integers(-1, 4)
CONFLICTS = st.sampled_from(["merge", "replace", "error"])
KEYS = st.sampled_from([None, None, "one", "two"])
DIGESTS = st.sampled_from(["none", "right", "wrong"])
BODIES = st.sampled_from([right, right, right, wrong])


class Bytes:
    """A body in memory. stop: the client leaves after so many bytes."""

    def __init__(self, content: bytes, stop: int | None = None) -> None:
        self.length: int | None = len(content)
        self._content, self._stop = content, stop

    async def receive(self, write: Callable[[memoryview], None], limit: int, turn: object) -> int:
        for start in range(0, len(self._content) if self._stop is None else self._stop, 10):
            await in_thread(write, memoryview(self._content)[start : start + 10])
        if self._stop is not None:
            raise ClientGone("left")
        return len(self._content)

    awaits_continue = False

    async def discard(self) -> None:
        pass

    def cut(self) -> None:
        pass


class Engine:
    """`Uploads` on a directory, without a server."""

    def __init__(self, directory: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.root = directory
        self._tasks: set[asyncio.Task[None]] = set()
        self._open()

    def _open(self) -> None:
        self._tree = Root(self.root)
        self._owner = self._tree.users.find("0")
        self._workspace = open_workspace(self._tree, "/workspace", self._owner)
        reserved = open_reserved(self._workspace)
        self._tree.reserve(reserved)
        archive = ArchiveLimits(entries=10, bytes=10, depth=10)
        places = Places(self._tree.users, self._owner, workspace="/workspace", cwd=None, strict=False)
        publisher = Publisher(self._tree, places, archive, reserved=inode(os.fstat(reserved)))
        self._store = Store(self._workspace, reserved, durable=False)
        limits = UploadLimits(part_size=PART, min_free_bytes=0, quota_bytes=1 << 20)
        self.uploads = Uploads(self._store, self._tree, publisher, places, limits, self._spawn)
        self.run(self.uploads.open())

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def crash(self) -> None:
        """Drops everything that runs, and what it knows."""
        for task in self._tasks:
            task.cancel()
        self.run(asyncio.wait({*self._tasks})) if self._tasks else None
        for upload in self.uploads.list():
            self.run(upload.closed())
        self._store.close()
        self._close()

    def stop(self) -> None:
        self.run(self.uploads.close())
        self._close()

    def _close(self) -> None:
        os.close(self._workspace)
        self._tree.close()

    def restart(self) -> None:
        self._open()

    def end(self) -> None:
        self.stop()
        self._loop.close()

    def said(self, work: Coroutine[Any, Any, Any]) -> tuple[str, Any]:
        """``ok`` and the result, or the reason of the refusal."""
        try:
            return OK, self.run(work)
        except UploadError as error:
            return error.reason, None
        except AgentError as error:
            return error.code, None

    def create(self, target: str, size: int, conflict: str, key: str | None) -> tuple[str, Any]:
        new = NewUpload(
            kind=Kind.FILE,
            source_kind="restartable_file",
            target_path=target,
            size=size,
            conflict=ConflictMode(conflict),
            whole_sha256=None,
            metadata=b"{}",
            user=None,
        )
        said, upload = self.said(self.uploads.create(new, key))
        return said, upload and upload.id

    def put(self, upload_id: str, number: int, body: bytes, declared: bool, stop: int | None = None) -> str:
        digest = hashlib.sha256(body).digest() if declared else None
        return self.said(self.uploads.put_part(upload_id, number, Bytes(body, stop), digest))[0]

    def complete(self, upload_id: str, digest: str | None) -> str:
        return self.said(self.uploads.complete(upload_id, (digest and bytes.fromhex(digest)) or None))[0]

    def abort(self, upload_id: str) -> str:
        return self.said(self.uploads.abort(upload_id))[0]

    def status(self, upload_id: str) -> tuple[str, int, int | None]:
        upload = self.uploads.get(upload_id)
        return upload.state.value, upload.parts.accepted_bytes, upload.parts.next_part


class Machine(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.directory = tempfile.TemporaryDirectory()
        self.system = self.begin(self.directory.name)

    def begin(self, directory: str) -> Any:
        return Engine(directory)

    def teardown(self) -> None:
        self.system.end()
        self.directory.cleanup()

    @rule(target=sessions, path=TARGETS, size=SIZES, conflict=CONFLICTS, key=KEYS)
    def create(self, path: str, size: int, conflict: str, key: str | None) -> Any:
        expected = self.model.create(path, size, conflict, key)
        said, made = self.system.create(path, size, conflict, key)
        if isinstance(expected, str):
            assert said == expected
            return multiple()
        assert said == OK
        assert expected.id in (None, made)
        new = expected.id is None
        expected.id = made
        return expected if new else multiple()

    @rule(session=sessions, number=NUMBERS, body=BODIES, declared=st.booleans())
    def put(self, session: Session, number: int, body: Callable[..., bytes], declared: bool) -> None:
        content = body(session.serial, number, max(session.length(number), 1))
        expected = self.model.put(session, number, content)
        assert self.system.put(session.id, number, content, declared) == expected

    @rule(session=sessions)
    def put_all_that_is_missing(self, session: Session) -> None:
        for number in session.missing:
            self.put(session, number, right, True)

    @rule(session=sessions, number=st.integers(0, 3), stop=st.integers(0, PART - 1))
    def put_that_is_cut(self, session: Session, number: int, stop: int) -> None:
        if number in session.missing:
            content = wrong(session.serial, number, session.length(number))
            assert self.system.put(session.id, number, content, True, min(stop, len(content) - 1)) != OK

    @rule(session=sessions, digest=DIGESTS)
    def complete(self, session: Session, digest: str) -> None:
        content = b"other" if digest == "wrong" or session.missing else session.content
        given = None if digest == "none" else sha256(content)
        assert self.system.complete(session.id, given) == self.model.complete(session, given)

    @rule(session=sessions)
    def abort(self, session: Session) -> None:
        assert self.system.abort(session.id) == self.model.abort(session)

    @rule()
    def crash(self) -> None:
        self.system.crash()
        self.system.restart()

    @rule()
    def stop(self) -> None:
        self.system.stop()
        self.tidy()
        self.system.restart()

    def tidy(self) -> None:
        """What has ended keeps its journal alone, and nothing is half made or half deleted."""
        uploads = Path(self.system.root, "workspace/.nullspace/uploads/v1")
        for session in self.model.sessions:
            left = {entry.name for entry in (uploads / session.id).iterdir()}
            assert left == ({"journal"} if session.state in ("completed", "aborted") else {"journal", "data"})
        assert {entry.name for entry in uploads.iterdir()} == {session.id for session in self.model.sessions}

    @invariant()
    def every_status_is_as_promised(self) -> None:
        for session in self.model.sessions:
            assert self.system.status(session.id) == session.said

    @invariant()
    def the_targets_are_what_was_completed(self) -> None:
        workspace = Path(self.system.root, "workspace")
        found = [path for path in workspace.rglob("*") if path.is_file() and ".nullspace" not in path.parts]
        assert {f"/workspace/{one.relative_to(workspace)}": one.read_bytes() for one in found} == self.model.files


class Served:
    """The same questions to a real daemon. ``die``: the failpoint that kills it within the next call that passes it."""

    POINTS = (
        *("create.after_mkdir", "create.after_rename", "create.before_ack", "part.after_last_write"),
        *("sync.before_data", "sync.after_journal", "sync.before_ack", "complete.after_hash"),
        *("complete.after_intent", "complete.after_rename", "complete.after_published", "abort.after_record"),
    )

    def __init__(self, directory: str) -> None:
        self.root = directory + "/root"
        Path(self.root).mkdir()
        flags = ("--uploads-part-size", str(PART), "--uploads-min-free-bytes", "0")
        self.daemon = Daemon(Path(self.root), Path(directory, "stderr"), flags, {})
        self.client = Client(self.daemon)

    def crash(self) -> None:
        self.daemon.kill9()

    def stop(self) -> None:
        assert self.daemon.term() == 0

    end = stop

    def restart(self) -> None:
        self.daemon.restart(environment={})

    def die_at(self, point: str) -> None:
        self.daemon.kill9()
        self.daemon.restart(environment={"AGENTD_FAILPOINT": f"{point}=exit"})

    def ask(self, call: Callable[[], Answer]) -> tuple[str, Any]:
        """Repeats the call where the daemon died of it."""
        try:
            answer = call()
        except (OSError, HTTPException):
            if self.daemon.wait() != -9:
                raise
            self.restart()
            answer = call()
        return (OK, answer) if answer.status < 300 else (reason(answer)[1], None)

    def create(self, target: str, size: int, conflict: str, key: str | None) -> tuple[str, Any]:
        self.serial = getattr(self, "serial", 0) + 1
        key = key or f"key {self.serial}"
        said, answer = self.ask(lambda: self.client.create(target, size, conflict=conflict, key=key))
        return said, answer and answer.json()["session"]["upload_id"]

    def put(self, upload_id: str, number: int, body: bytes, declared: bool, stop: int | None = None) -> str:
        session = {"upload_id": upload_id}
        if stop is None:
            return self.ask(lambda: self.client.part(session, number, body, "" if declared else None))[0]
        with self.client.open_part(session, number, len(body)) as connection:
            connection.sendall(body[:stop])
        return "cut"

    def complete(self, upload_id: str, digest: str | None) -> str:
        return self.ask(lambda: self.client.complete({"upload_id": upload_id}, digest))[0]

    def abort(self, upload_id: str) -> str:
        return self.ask(lambda: self.client.abort({"upload_id": upload_id}))[0]

    def status(self, upload_id: str) -> tuple[str, int, int | None]:
        session = self.client.status({"upload_id": upload_id})
        return session["status"], session["accepted_bytes"], session["next_part"]


class ServedMachine(Machine):
    def begin(self, directory: str) -> Any:
        return Served(directory)

    @rule(point=st.sampled_from(Served.POINTS))
    def die_within_a_later_call(self, point: str) -> None:
        self.system.die_at(point)


COMMON = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)
# What a real daemon found takes too long to be made smaller.
LONG = settings(COMMON, phases=[Phase.generate], stateful_step_count=12)


def test_the_engine_keeps_its_promises_through_crashes() -> None:
    run_state_machine_as_test(Machine, settings=settings(COMMON, max_examples=50, stateful_step_count=25))


def test_the_daemon_keeps_its_promises_through_kill_9() -> None:
    run_state_machine_as_test(ServedMachine, settings=settings(LONG, max_examples=2))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_daemon_keeps_its_promises_through_many_kills() -> None:
    run_state_machine_as_test(ServedMachine, settings=settings(LONG, max_examples=25))
