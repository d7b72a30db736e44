"""Ways to hand a path to the daemon by what lives longer than a request: machines and interpreters (see
`tests.asking`)."""

import json

from tests.asking import Ask, Caller, Key, More, post
from tests.conftest import Answer


def _machine(caller: Caller, path: str, more: More) -> Answer:
    content = json.dumps({"cwd": path, **more}).encode()
    answer = caller.request("POST", "/v1/machines", content, {"Content-Type": "application/json"})
    if answer.status < 300:
        caller.request("DELETE", f"/v1/machines/{answer.json()['id']}")
    return answer


def _context(caller: Caller, path: str, more: More) -> Answer:
    answer = post("/process/interpreter/context", "cwd").send(caller, path, more)
    if answer.status < 300:
        caller.request("DELETE", f"{caller.prefix}/process/interpreter/context/{answer.json()['id']}")
    return answer


MACHINES: dict[Key, Ask] = {("machines.create", "cwd"): Ask(_machine)}
CONTEXTS: dict[Key, Ask] = {
    ("interpreter.create", "cwd"): Ask(_context, refused=lambda answer: answer.status == 403),
}
