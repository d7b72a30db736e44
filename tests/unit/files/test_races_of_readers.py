"""Whoever swaps things under a search or an archive learns nothing by it, nor does he stop it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.errors import NotSupported
from agentd.files.archive import Archives
from agentd.files.globs import Glob, Ignore
from agentd.files.listing import Listing
from agentd.files.operations import Files
from agentd.files.patterns import compiled
from agentd.files.search import Search
from agentd.files.usage import Measuring
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.root import Root
from tests.swapping import outcomes, swapping

NOBODY = Ignore([])
WORKSPACE = Place("/workspace", None, Identity(0, 0, (0,), "root", "/"), ())


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A workspace with a file and a directory to be swapped, and secrets elsewhere."""
    top = tmp_path / "top"
    for name in ("workspace/victim", "workspace/.nullspace", "private"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("harmless" if "victim" in name else "secret")
    (top / "workspace/file").write_text("harmless")
    return top


@pytest.fixture
def root(top: Path) -> Iterator[Root]:
    root = Root(str(top))
    fd = os.open(top / "workspace/.nullspace", os.O_PATH)
    root.reserve(fd)
    os.close(fd)
    yield root
    root.close()


def found(root: Root) -> str:
    matches = Search(root, Files(root, root.users)).content(WORKSPACE, compiled("secret|harmless"), NOBODY)
    return " ".join(f"{match.file}={match.content}" for chunk in matches.chunks for match in chunk)


def named(root: Root) -> str:
    names = Search(root, Files(root, root.users)).names(WORKSPACE, Glob("*"), NOBODY)
    return " ".join(path for chunk in names.chunks for path in chunk)


def listed(root: Root) -> str:
    listed = Listing(root, root.users).page(WORKSPACE, 9, 100, "name", None, hidden=True)
    return " ".join(path for chunk in listed.entries for _, path, _, _ in chunk)


def archived(root: Root) -> str:
    archive = Archives(root, root.users).open(WORKSPACE, "tar", NOBODY)
    return b"".join(piece for chunk in archive.chunks for piece in chunk).decode("latin-1")


def counted(root: Root) -> str:
    counting = Measuring(root).usage(WORKSPACE)
    assert [*counting.chunks]
    return f"{counting.usage.apparent} bytes"


@pytest.mark.parametrize("target", ["/private", "/workspace/.nullspace"])
@pytest.mark.parametrize("victim", ["file", "victim"])
@pytest.mark.parametrize("read", [found, archived])
def test_no_content_of_what_a_link_leads_to_is_read(
    root: Root, top: Path, read: Callable[[Root], str], victim: str, target: str
) -> None:
    (top / "trap").symlink_to(f"{top}{target}" + ("/file" if victim == "file" else ""))
    with swapping(top / "workspace" / victim, top / "trap"):
        seen = outcomes(lambda: read(root))
    assert not any("secret" in text for text in seen)
    assert any("harmless" in text for text in seen)


@pytest.mark.parametrize("read", [found, named, listed, archived, counted])
def test_the_reserved_tree_swapped_for_another_is_not_read(root: Root, top: Path, read: Callable[[Root], str]) -> None:
    with swapping(top / "workspace/victim", top / "workspace/.nullspace"):
        seen = outcomes(lambda: read(root))
    assert not any("secret" in text for text in seen)
    if read is counted:
        # The victim may be met under both names.
        assert set(seen) <= {f"{times * len('harmless')} bytes" for times in (1, 2, 3)}


@pytest.mark.parametrize("read", [found, named, listed, archived, counted])
def test_what_comes_and_goes_stops_nobody(root: Root, top: Path, read: Callable[[Root], str]) -> None:
    (top / "workspace/other").write_text("harmless")
    with swapping(top / "workspace/victim", top / "workspace/other"):
        seen = outcomes(lambda: read(root))
    assert not {"StorageFailed", "NotFound", "NotADirectory"} & set(seen)


def test_where_zstd_is_missing_it_is_said(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(NotSupported, match=r"agentd\[zstd\]"):
        Archives(root, root.users).open(WORKSPACE, "tar.zst", NOBODY)
