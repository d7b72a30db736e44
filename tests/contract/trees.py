"""Directories to upload, and what became of them."""

import os
import stat
from pathlib import Path


def grow(top: Path) -> Path:
    """A directory with all that an upload can carry."""
    for directory in ("empty", "nested/deeper/deepest", "sealed", "naïve-日本", "d" * 120):
        (top / directory).mkdir(parents=True)
    (top / "nested/deeper/deepest/file").write_bytes(bytes(range(256)) * 8192)
    (top / "sealed/file").write_text("sealed")
    (top / "naïve-日本/čeština.txt").write_text("text")
    (top / ("d" * 120) / ("f" * 200)).write_text("long")
    (top / os.fsdecode(b"not-utf8-\xff\xfe")).write_text("raw")
    (top / 'it\'s "two" words').write_text("quoted")
    (top / "none").touch()
    (top / ".hidden").write_text("dot")
    (top / "twin").hardlink_to(top / ".hidden")
    (top / "up").symlink_to("nested/deeper")
    (top / "nested/back").symlink_to("../none")
    (top / "nested/dangling").symlink_to("nowhere-" + "x" * 120)
    for name, mode in {"none": 0o600, "twin": 0o751, "nested": 0o700, "sealed/file": 0o444, "sealed": 0o555}.items():
        (top / name).chmod(mode)
    return top


def entries(top: Path) -> dict[str, tuple[int, object]]:
    """By path below ``top``: type and mode, and the content or the link's text. Links have no mode of their own."""
    found: dict[str, tuple[int, object]] = {}
    for path in top.rglob("*"):
        about = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = path.read_bytes()
        mode = stat.S_IFMT(about.st_mode) if path.is_symlink() else about.st_mode
        found[str(path.relative_to(top))] = (mode, content)
    return found
