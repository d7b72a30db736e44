"""How many contexts there are, and how much waits in one."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.process.harness.waiting import eventually

MOST_CONTEXTS, MOST_WAITING = 3, 2


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon("--contexts-max-open", str(MOST_CONTEXTS), "--contexts-max-waiting", str(MOST_WAITING))


def create(daemon: Daemon) -> Answer:
    return daemon.call("POST", "/v1/code/contexts", {"language": "sh"})


def test_there_are_only_so_many_contexts_until_one_is_deleted(daemon: Daemon) -> None:
    made = [create(daemon) for _ in range(MOST_CONTEXTS)]
    refused = create(daemon)
    assert (refused.status, refused.json()["code"]) == (429, "capacity_exceeded")
    ids = [answer.json()["id"] for answer in made if answer.status == 201]
    daemon.call("DELETE", f"/v1/code/contexts/{ids.pop()}")
    ids.append(create(daemon).json()["id"])
    for id_ in ids:
        assert daemon.call("DELETE", f"/v1/code/contexts/{id_}").status == 204


def test_only_so_much_code_waits_in_a_context(daemon: Daemon) -> None:
    id_ = create(daemon).json()["id"]

    def run() -> int:
        return daemon.call("POST", "/v1/code/execute", {"code": "sleep 100", "context_id": id_}).status

    count = 8 * MOST_WAITING  # several that come at once may all be let in
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(run) for _ in range(count)]
        assert eventually(lambda: any(answer.done() for answer in answers))
        assert daemon.call("DELETE", f"/v1/code/contexts/{id_}").status == 204
    statuses = {answer.result() for answer in answers}
    assert {200, 429} <= statuses <= {200, 429, 404}  # late ones come after the end
