"""A processes room of this machine's own root: shells and terminals want a user who can go about in it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agentd.background import Background
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.spawn import Limits, Settings
from agentd.processes.registry import Processes
from agentd.processes.surroundings import Surroundings
from agentd.processes.terms import ProcessLimits

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    """Jobs beside the test; all have ended when it has."""
    async with asyncio.TaskGroup() as group:
        jobs = Background(group)
        yield jobs
        await jobs.finish()


@pytest.fixture
async def places() -> AsyncIterator[Places]:
    root = Root("/")
    yield Places(root.users, root.users.of(os.geteuid()), workspace="/tmp", cwd=None, strict=False)
    root.close()


@pytest.fixture
async def processes(background: Background, places: Places, tmp_path: Path) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as closing:
        root = Root("/")
        closing.callback(root.close)
        directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        closing.callback(os.close, directory)
        room = Processes(
            *(root, places, ProcessLimits(grace=0.2), Settings(1024)),
            Surroundings("/tmp", "/bin/sh", PATH, "C.UTF-8", {}),
            most=Limits(),
            directory=directory,
            spawn=background.spawn,
        )
        closing.push_async_callback(room.close)
        yield room
