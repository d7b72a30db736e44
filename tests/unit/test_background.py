"""Work beside the requests: what fails is started again or logged, and never ends anything else."""

import asyncio

import pytest

from agentd import background
from agentd.background import Background


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.001)


async def test_a_service_that_fails_is_started_again_until_it_ends() -> None:
    starts: list[int] = []
    done = asyncio.Event()

    async def service() -> None:
        starts.append(1)
        if len(starts) < 4:
            raise OSError("disk")
        done.set()

    async with asyncio.TaskGroup() as group:
        Background(group).supervise("a service", service)
        await done.wait()
    assert len(starts) == 4


async def test_a_failing_job_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("disk")

    async with asyncio.TaskGroup() as group:
        background = Background(group)
        await background.spawn(fail())
        await background.finish()
    assert "a background job failed" in caplog.text


async def test_at_the_end_services_are_cancelled_and_jobs_awaited() -> None:
    ended: list[str] = []

    async def service() -> None:
        await asyncio.Event().wait()

    async def job() -> None:
        await asyncio.sleep(0.02)
        ended.append("job")

    async with asyncio.TaskGroup() as group:
        background = Background(group)
        background.supervise("a service", service)
        background.spawn(job())
        await asyncio.sleep(0)
        await background.finish()
    assert ended == ["job"]
