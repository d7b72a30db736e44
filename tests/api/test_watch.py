"""What is told of changes to files, over the stream and over the socket, and what a watch leaves behind: nothing."""

import http.client
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from tests.conftest import ANSWER_SECONDS, UNIT, Daemon, StartDaemon
from tests.process.harness.mounts import mounted
from tests.process.harness.waiting import eventually
from tests.uploading import Client

Told = list[dict[str, Any]]


class Following:
    """A stream of changes. started: its first line."""

    def __init__(self, daemon: Daemon, path: str, **query: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {daemon.token}", "Accept": query.pop("accept", "application/x-ndjson")}
        self._connection.request("GET", "/v1/watch?" + urlencode({"path": path, **query}), headers=headers)
        self.answer = self._connection.getresponse()
        self.started = self.next() if self.answer.status == 200 else None

    def next(self) -> dict[str, Any]:
        while not (line := self.answer.readline().strip()).endswith(b"}"):
            assert line in (b"", b"event: started")
        found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
        return found

    def until(self, kind: str, name: str | None = None) -> Told:
        told = [self.next()]
        while (told[-1]["event"], name or told[-1].get("name")) != (kind, told[-1].get("name")):
            told.append(self.next())
        return told

    def words(self, kind: str, name: str) -> list[str]:
        """The words for ``name``, up to ``kind``."""
        return [event["event"] for event in self.until(kind, name) if event["name"] == name]

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


Follow = Callable[..., Following]


@pytest.fixture
def follow(shared: Daemon, home: Path) -> Iterator[Follow]:
    opened: list[Following] = []

    def begin(path: str = f"/workspace/{home.name}", daemon: Daemon = shared, **query: Any) -> Following:
        opened.append(Following(daemon, path, **{"recursive": "true", **query}))
        return opened[-1]

    yield begin
    for following in opened:
        following.close()


def watched(daemon: Daemon) -> int:
    """How many files the kernel watches for the daemon."""
    count = 0
    for info in Path(f"/proc/{daemon.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            count += info.read_text().count("inotify wd:")
    return count


def put(daemon: Daemon, path: str, content: bytes = b"content") -> None:
    assert daemon.call("PUT", "/v1/file?" + urlencode({"path": path}), content).status == 204


def test_every_change_is_a_line_with_all_that_is_known(follow: Follow, home: Path) -> None:
    changes = follow()
    assert changes.started == {"event": "started", "path": f"/workspace/{home.name}"}
    (home / "a").mkdir()
    (home / "a").rename(home / "b")
    created, renamed = changes.until("rename")
    place = f"/workspace/{home.name}"
    assert created == {"event": "create", "path": f"{place}/a", "name": "a", "is_dir": True, "mask": 0x40000100}
    assert (renamed["path"], renamed["old_path"]) == (f"{place}/b", f"{place}/a")


def test_a_write_of_the_daemons_own_looks_like_any_write(follow: Follow, shared: Daemon, home: Path) -> None:
    changes = follow()
    put(shared, f"/workspace/{home.name}/file")
    put(shared, f"/workspace/{home.name}/file", b"other")
    (home / "file").unlink()
    assert changes.words("remove", "file") == ["create", "chmod", "write", "write", "remove"]


def test_an_upload_looks_like_a_write(follow: Follow, client: Client, home: Path) -> None:
    changes = follow()
    for content in (b"one", b"another"):
        client.put(f"/workspace/{home.name}/file", content)
    (home / "file").unlink()
    assert changes.words("remove", "file") == ["create", "chmod", "write", "write", "remove"]


def test_server_sent_events_carry_the_same(follow: Follow, home: Path) -> None:
    changes = follow(accept="text/event-stream")
    assert changes.answer.headers["Content-Type"] == "text/event-stream"


def test_names_that_are_not_unicode_are_told(follow: Follow, home: Path) -> None:
    changes = follow()
    Path(os.fsdecode(os.fsencode(home) + b"/\xff")).touch()
    assert changes.until("create", "\udcff")


def test_a_thousand_directories_at_once_are_all_told_and_followed(follow: Follow, home: Path) -> None:
    changes = follow()
    names = {f"{number}/below" for number in range(500)}
    for name in names:
        (home / name).mkdir(parents=True)
        (home / name / "file").touch()
    missing = {f"{name}/file" for name in names}
    while missing:
        missing.discard(changes.next()["name"])
    (home / "499/below/late").touch()
    changes.until("create", "499/below/late")


def test_nothing_of_the_daemons_own_tree_is_ever_told(follow: Follow, shared: Daemon, home: Path) -> None:
    changes = follow("/workspace")
    own = shared.root / "workspace/.nullspace"
    for number in range(20):
        put(shared, f"/workspace/{home.name}/{number}")
        own.rename(own.with_name("renamed"))
        (own.with_name("renamed")).chmod(0o700)
        (own.with_name("renamed")).rename(home / "moved")
        (home / "moved").rename(own)
    told = changes.until("create", f"{home.name}/19")
    names = {part for event in told for path in (event["path"], event.get("old_path", "")) for part in path.split("/")}
    assert names.isdisjoint({".nullspace", "renamed", "moved", "uploads", "writes"})


def test_an_impostor_of_the_daemons_tree_is_not_told_until_it_has_another_name(
    follow: Follow, shared: Daemon, home: Path
) -> None:
    own, aside = shared.root / "workspace/.nullspace", shared.root / "workspace/aside"
    changes = follow("/workspace")
    own.rename(aside)
    own.write_text("impostor")
    own.rename(home / "file")
    aside.rename(own)
    (home / "last").touch()
    told = [(event["event"], event["path"]) for event in changes.until("create", f"{home.name}/last")]
    place = f"/workspace/{home.name}"
    assert told == [*((kind, f"{place}/file") for kind in ("create", "chmod", "write")), ("create", f"{place}/last")]


def test_what_is_staged_beside_a_target_is_not_told(follow: Follow, shared: Daemon, home: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, home):
        changes = follow()
        put(shared, f"/workspace/{home.name}/file")
        (home / "file").unlink()
        told = {(event["event"], event["name"]) for event in changes.until("remove")}
        assert told == {(kind, "file") for kind in ("create", "chmod", "write", "remove")}
        changes.close()


def test_a_file_alone_is_watched_through_replacements(follow: Follow, shared: Daemon, home: Path) -> None:
    (home / "file").touch()
    changes = follow(f"/workspace/{home.name}/file", recursive="false")
    (home / "other").touch()
    put(shared, f"/workspace/{home.name}/file")
    (home / "file").unlink()
    assert changes.words("remove", "file") == ["write", "remove"]


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_the_end_of_what_is_watched_is_the_last_line(follow: Follow, home: Path, how: str) -> None:
    (home / "tree").mkdir()
    changes = follow(f"/workspace/{home.name}/tree")
    (home / "tree").rmdir() if how == "removed" else (home / "tree").rename(home / "other")
    assert changes.until("end")[-1] == {"event": "end", "path": f"/workspace/{home.name}/tree", "reason": how}
    assert changes.answer.read() == b""


def test_what_cannot_be_watched_is_refused_before_the_answer(shared: Daemon, home: Path) -> None:
    os.mkfifo(home / "fifo")
    for path, status in (("/nowhere", 404), (".nullspace", 403), (f"/workspace/{home.name}/fifo", 400)):
        assert shared.call("GET", "/v1/watch?" + urlencode({"path": path})).status == status


def test_more_watches_than_may_be_are_refused(start_daemon: StartDaemon, follow: Follow) -> None:
    daemon = start_daemon("--watches-max-open", "2")
    for _ in range(2):
        follow("/workspace", daemon)
    refused = daemon.call("GET", "/v1/watch?path=/workspace")
    assert (refused.status, refused.json()["code"]) == (429, "capacity_exceeded")


def test_so_many_directories_are_followed_and_two_thirds_by_one(start_daemon: StartDaemon, follow: Follow) -> None:
    daemon = start_daemon("--watches-max-directories", "6")
    for number in range(3):
        (daemon.root / f"workspace/{number}").mkdir()
    follow("/workspace", daemon).close()
    assert eventually(lambda: watched(daemon) == 0)
    (daemon.root / "workspace/3").mkdir()
    assert daemon.call("GET", "/v1/watch?recursive=true&path=/workspace").status == 429
    assert [follow(f"/workspace/{number}", daemon).answer.status for number in range(3)] == [200] * 3


def test_a_client_that_leaves_takes_its_watches_with_it(follow: Follow, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    for number in range(10):
        (daemon.root / f"workspace/{number}").mkdir()
    for recursive, count in (("true", 12), ("false", 2)):
        changes = follow("/workspace", daemon, recursive=recursive)
        assert watched(daemon) == count
        changes.close()
        assert eventually(lambda: watched(daemon) == 0)


@pytest.mark.slow
def test_a_slow_client_is_told_what_it_missed(follow: Follow, home: Path) -> None:
    changes = follow()
    connection = changes.answer.fp.raw._sock  # type: ignore[union-attr]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(2 * queued):
        (home / ("x" * 200 + str(number % 2))).touch()
        (home / ("x" * 200 + str(number % 2))).unlink()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert len(changes.until("overflow")) < 4 * queued
    (home / "late").touch()
    changes.until("create", "late")


def test_a_drain_ends_a_watch_with_a_word(follow: Follow, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    changes = follow("/workspace", daemon)
    daemon.signal(15)
    assert changes.until("end")[-1]["reason"] == "draining"
    assert daemon.wait() == 0


# -- the socket


@asynccontextmanager
async def connect(daemon: Daemon) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    timeout = aiohttp.ClientTimeout(total=60 * UNIT)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {daemon.token}"}) as session:
        async with session.ws_connect(f"{daemon.url}/v1/machines/m-1/ws") as connection:
            yield connection


async def frame(connection: aiohttp.ClientWebSocketResponse, ident: str, **wanted: str) -> dict[str, Any]:
    """The next frame of that id with such values."""
    while True:
        found: dict[str, Any] = await connection.receive_json(timeout=20 * UNIT)
        if found["id"] == ident and wanted.items() <= found.items():
            return found


async def test_a_socket_holds_several_watches(shared: Daemon, home: Path) -> None:
    (home / "a").mkdir()
    async with connect(shared) as connection:
        for ident, path in (("all", home.name), ("part", f"{home.name}/a")):
            await connection.send_json({"type": "file_watch", "id": ident, "path": path, "user": None})
            await frame(connection, ident, type="file_watch_started")
        (home / "a/file").touch()
        told = await frame(connection, "part", type="file_event")
        place = f"/workspace/{home.name}"
        assert told == {
            "type": "file_event",
            "id": "part",
            "event": "create",
            "path": f"{place}/a/file",
            "name": "file",
        }
        (home / "b").touch()
        assert (await frame(connection, "all", event="create"))["name"] == "b"


async def test_a_rename_is_told_of_both_names(shared: Daemon, home: Path) -> None:
    (home / "a").mkdir()
    (home / "a/old").touch()
    async with connect(shared) as connection:
        await connection.send_json({"type": "file_watch", "id": "w", "path": home.name, "recursive": True})
        await frame(connection, "w", type="file_watch_started")
        (home / "a/old").rename(home / "new")
        assert [(await frame(connection, "w", event="rename"))["name"] for _ in range(2)] == ["a/old", "new"]


async def test_what_goes_wrong_is_an_error_frame_and_the_socket_stays(shared: Daemon, home: Path) -> None:
    async with connect(shared) as connection:
        await connection.send_str("{")
        assert "invalid message" in (await frame(connection, "", type="error"))["message"]
        await connection.send_json({"type": "file_watch", "id": "w", "path": "/nowhere"})
        assert "not_found" in (await frame(connection, "w", type="error"))["message"]
        await connection.send_json({"type": "file_watch", "id": "w", "path": home.name})
        await frame(connection, "w", type="file_watch_started")
        shutil.rmtree(home)
        assert "was removed" in (await frame(connection, "w", type="error"))["message"]


async def test_a_watch_that_is_over_in_time_ends_without_a_word(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    async with connect(daemon) as connection:
        await connection.send_json({"type": "file_watch", "id": "w", "path": "/workspace", "timeout_secs": 0.2})
        await frame(connection, "w", type="file_watch_started")
        assert eventually(lambda: watched(daemon) == 0)
        with pytest.raises(TimeoutError):
            await connection.receive(timeout=0.2 * UNIT)
