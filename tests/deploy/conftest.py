"""Where sandboxes run: containers, systemd, Kubernetes, a browser. `.ci/run` installs what these tests need."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.images import built as built
from tests.deploy.images import context as context
from tests.deploy.images import engine as engine
from tests.deploy.service import machine as machine
from tests.deploy.service import service as service
from tests.deploy.service import started as started

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.deploy)


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """``needs("podman", …)``: these programs are there. A test is skipped, with their names, where they are not; in CI
    it fails, because CI installs them."""

    def check(*programs: str) -> None:
        missing = [program for program in programs if shutil.which(program) is None]
        if missing and os.environ.get("CI"):
            pytest.fail(f"not installed: {', '.join(missing)}")
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")

    return check
