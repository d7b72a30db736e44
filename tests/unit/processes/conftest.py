"""The room in this process: a sandbox with bob in it, and `Processes` to start programs there."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agentd.background import Background
from agentd.linux.identity import Users
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.spawn import Limits, Settings
from agentd.processes.registry import Processes
from agentd.processes.surroundings import Surroundings
from agentd.processes.terms import ProcessLimits

BOB = 40001
MakeProcesses = Callable[..., Processes]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The sandbox's / on this machine."""
    top = tmp_path / "top"
    for name, mode in (("", 0o755), ("etc", 0o755), ("workspace", 0o777), ("workspace/.nullspace", 0o700)):
        (top / name).mkdir()
        (top / name).chmod(mode)
    (top / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nbob:x:{BOB}:{BOB}::/home/bob:/bin/bash\n")
    return top


@pytest.fixture
async def make_processes(top: Path) -> AsyncIterator[MakeProcesses]:
    """``make_processes(max_running=3)``: a room with these limits, closed after the test."""
    async with asyncio.TaskGroup() as group, AsyncExitStack() as closing:
        background = Background(group)
        closing.push_async_callback(background.finish)

        def make(most: Limits | None = None, **limits: Any) -> Processes:
            root = Root(str(top))
            closing.callback(root.close)
            reserved = os.open(top / "workspace/.nullspace", os.O_RDONLY | os.O_DIRECTORY)
            closing.callback(os.close, reserved)
            root.reserve(reserved)
            users = Users(root)
            processes = Processes(
                *(root, Places(users, users.of(0), workspace="/workspace", cwd=None, strict=False)),
                ProcessLimits(**{"grace": 0.1, **limits}),
                Settings(1024),
                Surroundings("/workspace", "/bin/sh", os.environ["PATH"], "C.UTF-8", {"CONFIGURED": "yes"}),
                most=most or Limits(),
                directory=reserved,
                spawn=background.spawn,
            )
            closing.push_async_callback(processes.close)
            return processes

        yield make


@pytest.fixture
def processes(make_processes: MakeProcesses) -> Processes:
    return make_processes()
