"""How many contexts there are, and how much waits in one."""

from concurrent.futures import ThreadPoolExecutor

from tests.conftest import Answer, Daemon
from tests.process.harness.waiting import eventually

MOST_CONTEXTS, MOST_WAITING = 32, 32


def create(daemon: Daemon) -> Answer:
    return daemon.call("POST", "/v1/code/contexts", {"language": "sh"})


def test_there_are_only_so_many_contexts_until_one_is_deleted(shared: Daemon) -> None:
    made = [create(shared) for _ in range(MOST_CONTEXTS)]
    refused = create(shared)
    assert (refused.status, refused.json()["code"]) == (429, "capacity_exceeded")
    ids = [answer.json()["id"] for answer in made if answer.status == 201]
    shared.call("DELETE", f"/v1/code/contexts/{ids.pop()}")
    ids.append(create(shared).json()["id"])
    for id_ in ids:
        assert shared.call("DELETE", f"/v1/code/contexts/{id_}").status == 204


def test_only_so_much_code_waits_in_a_context(shared: Daemon) -> None:
    id_ = create(shared).json()["id"]

    def run() -> int:
        return shared.call("POST", "/v1/code/execute", {"code": "sleep 100", "context_id": id_}).status

    count = 2 * MOST_WAITING  # several that come at once may all be let in
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(run) for _ in range(count)]
        assert eventually(lambda: any(answer.done() for answer in answers))
        assert shared.call("DELETE", f"/v1/code/contexts/{id_}").status == 204
    statuses = {answer.result() for answer in answers}
    assert {200, 429} <= statuses <= {200, 429, 404}  # late ones come after the end
