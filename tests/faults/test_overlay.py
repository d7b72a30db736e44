"""A container's root: an overlay whose lower layer's directories cannot be renamed or exchanged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults.conftest import run
from tests.uploading import Client, content_of, tar_of

CONTENT = content_of(2500)
ARCHIVE = tar_of({"sub": None, "sub/f": CONTENT, "g": b"new", "kind": None})


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An overlay in whose lower layer /workspace/target has old entries, of another kind where they are kept."""
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "root")}
    for layer in layers.values():
        layer.mkdir()
    old = layers["lower"] / "workspace/target"
    (old / "sub/deeper").mkdir(parents=True)
    for name in ("old", "sub/f", "sub/old", "kind"):
        (old / name).write_bytes(b"old")
    old.chmod(0o750)
    options = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
    run("mount", "-t", "overlay", "overlay", "-o", options, str(layers["root"]))
    yield layers["root"]
    run("umount", "--lazy", str(layers["root"]))


@pytest.fixture
def client(root: Path, start_daemon: StartDaemon) -> Client:
    return Client(start_daemon("--uploads-part-size", "1000", root=root))


def tree(place: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else None for p in sorted(place.rglob("*"))}


def test_a_directory_of_the_image_is_replaced(client: Client, root: Path) -> None:
    answer = client.put_tar("target", ARCHIVE, conflict="replace")
    assert answer.status == 200, answer.body
    assert tree(root / "workspace/target") == {"g": b"new", "kind": None, "sub": None, "sub/f": CONTENT}
    assert (root / "workspace/target").stat().st_mode & 0o777 == 0o750
    assert client.daemon.term() == 0
    assert [entry.name for entry in (root / "workspace").iterdir() if entry.name != ".nullspace"] == ["target"]


def test_a_directory_of_the_image_is_merged_into(client: Client, root: Path) -> None:
    (root / "workspace/target/kind").unlink()
    answer = client.put_tar("target", ARCHIVE, conflict="merge")
    assert answer.status == 200, answer.body
    found = tree(root / "workspace/target")
    assert found["sub/f"] == CONTENT
    assert found["old"] == found["sub/old"] == b"old"


def test_a_file_of_the_image_is_replaced(client: Client, root: Path) -> None:
    (root / "workspace/target/old").chmod(0o640)
    assert client.put("target/old", CONTENT).status == 200
    assert (root / "workspace/target/old").read_bytes() == CONTENT
    assert (root / "workspace/target/old").stat().st_mode & 0o777 == 0o640
