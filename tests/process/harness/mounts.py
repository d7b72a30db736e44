"""Bind mounts, mount(8): a directory of the same device into which nothing can be renamed from outside."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(source: Path, place: Path) -> Iterator[None]:
    """``source`` is seen at ``place``; the test is skipped where that is not allowed."""
    if subprocess.run(["mount", "--bind", source, place], capture_output=True, check=False).returncode:
        pytest.skip("only a privileged process may mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
