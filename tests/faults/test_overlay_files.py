"""Files and trees of a container's lower layer, which cannot be renamed or exchanged there, changed nonetheless."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults.conftest import run
from tests.filing import Filing, facts


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "root")}
    for layer in layers.values():
        layer.mkdir()
    for name in ("tree/f", "tree/sub/g", "other/f", "other/sub/old", "file"):
        path = layers["lower"] / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"lower {name}")
    (layers["lower"] / "workspace/file").chmod(0o640)
    options = ",".join(f"{name}dir={layers[name]}" for name in ("lower", "upper", "work"))
    run("mount", "-t", "overlay", "overlay", "-o", options, str(layers["root"]))
    yield layers["root"]
    run("umount", "--lazy", str(layers["root"]))


@pytest.fixture
def files(root: Path, start_daemon: StartDaemon) -> Filing:
    daemon = start_daemon(root=root)
    return Filing(daemon, root / "workspace")


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if ".nullspace" not in path.parts)


def test_a_file_is_written_appended_to_and_copied(files: Filing) -> None:
    assert files.op("append", "file", content="!").json()["size"] == len("lower file!")
    assert files.copy("file", "tree/copy").status == files.write("file", "new").status == 200
    assert (files.home / "file").read_text() == "new"
    assert facts(files.home / "tree/copy")[2] == facts(files.home / "file")[2] == "0640"


def test_a_tree_is_moved_and_removed(files: Filing) -> None:
    assert files.rename("tree", "moved").status == 200
    assert names(files.home / "moved") == ["f", "sub", "sub/g"]
    assert files.op("remove", "other").status == 204
    assert sorted(path.name for path in files.home.iterdir()) == [".nullspace", "file", "moved"]
    assert files.left() == []


@pytest.mark.parametrize("act", ["move", "copy"])
@pytest.mark.parametrize(("conflict", "kept"), [("merge", ["sub/old"]), ("replace", [])])
def test_a_tree_is_put_over_another(files: Filing, act: str, conflict: str, kept: list[str]) -> None:
    assert getattr(files, act)("tree", "other", conflict=conflict).status == 200
    assert names(files.home / "other") == ["f", "sub", "sub/g", *kept]
    assert (files.home / "other/f").read_text() == "lower tree/f"
    assert (files.home / "tree").exists() is (act == "copy")
    assert files.left() == []
