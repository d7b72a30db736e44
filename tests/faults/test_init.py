"""A warm daemon whose disk is full when it is made somebody's."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import Daemon
from tests.faults.conftest import Mount


def test_what_cannot_be_kept_is_not_taken(mount: Mount, start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("pool")
    daemon = start_daemon("--await-init", "--token-file", str(tmp_path / "tokens"), root=mount(size=1))
    full = daemon.root / "workspace/full"
    with full.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    answers = [daemon.call("POST", "/v1/init", {"sandbox_id": "a"}, token="pool")]
    full.unlink()
    answers.append(daemon.call("POST", "/v1/init", {"sandbox_id": "b"}, token="pool"))
    assert [answer.status for answer in answers] == [507, 200]
