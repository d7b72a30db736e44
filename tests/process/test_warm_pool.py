"""A daemon that is ready before it is anybody's, and becomes one sandbox's by one call."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import UNIT, Answer, Daemon
from tests.process.harness.waiting import eventually

POOL, OWN = "pool-token-of-many-pods", "the-token-of-one-sandbox"
MINE = {
    "sandbox_id": "sb_1",
    "token": OWN,
    "environment": {"GREETING": "good morning"},
    "cwd": "/workspace/project",
    "default_user": "nobody",
}


@pytest.fixture
def warm(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    tokens = tmp_path / "tokens"
    tokens.write_text(POOL)
    return start_daemon("--await-init", "--token-file", str(tokens))


def init(daemon: Daemon, said: Mapping[str, object], token: str | None = POOL) -> Answer:
    return daemon.call("POST", "/v1/init", said, token=token)


def run(daemon: Daemon, command: str, token: str = OWN) -> str:
    answer = daemon.call("POST", "/v1/machines/sb_1/exec", {"command": "sh", "args": ["-c", command]}, token=token)
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["stdout"])


def test_it_is_ready_at_once_and_tells_what_it_waits_for(warm: Daemon) -> None:
    assert [warm.call("GET", path, token=None).status for path in ("/livez", "/readyz")] == [200, 200]
    assert warm.call("GET", "/version", token=POOL).status == 200
    waiting = warm.call("GET", "/v1/files", token=POOL)
    assert (waiting.status, json.loads(waiting.body)["retryable"]) == (503, True)
    assert "/v1/init" in json.loads(waiting.body)["detail"]


def test_it_is_the_sandbox_when_the_call_has_been_answered(warm: Daemon) -> None:
    answer = init(warm, MINE)
    assert (answer.status, json.loads(answer.body)) == (200, {"sandbox_id": "sb_1"})
    assert run(warm, "echo $GREETING; id -un; pwd").split("\n")[:2] == ["good morning", "nobody"]
    assert run(warm, "pwd").strip().endswith("/workspace/project")
    assert warm.call("GET", "/v1/machines/sb_2/files", token=OWN).status == 404


def test_its_directory_is_made_and_its_user_s(warm: Daemon) -> None:
    init(warm, MINE)
    place = warm.root / "workspace/project"
    assert (place.owner(), run(warm, "touch here")) == ("nobody", "")
    warm.kill9()
    shutil.rmtree(place)
    warm.restart()
    assert run(warm, "pwd").strip().endswith("/workspace/project")


def test_a_directory_that_cannot_be_had_is_refused_and_nothing_is_kept(warm: Daemon) -> None:
    (warm.root / "workspace/file").touch()
    for place in ("/workspace/file", "/workspace/.nullspace/x"):
        refused = init(warm, {**MINE, "cwd": place})
        assert (refused.status, f"cwd: {place} cannot be used" in refused.body.decode()) == (400, True)
    assert init(warm, MINE).status == 200


def test_of_a_token_that_nobody_could_send_it_is_said_what_one_is(warm: Daemon) -> None:
    refused = init(warm, {**MINE, "token": "a b"})
    assert refused.status == 400
    assert "token: 1 to 4096 printable ASCII characters without spaces, or sha256:" in refused.body.decode()


def test_the_sandbox_s_own_token_takes_the_place_of_the_pool_s(warm: Daemon) -> None:
    init(warm, MINE)
    assert warm.call("GET", "/v1/capabilities", token=POOL).status == 401
    assert warm.call("GET", "/v1/capabilities", token=OWN).status == 200
    assert init(warm, MINE).status == 200


def test_without_a_token_of_its_own_the_pool_s_stays(warm: Daemon) -> None:
    assert init(warm, {"sandbox_id": "sb_1"}).status == 200
    assert run(warm, "echo yes", token=POOL) == "yes\n"


def test_the_same_again_is_no_harm_and_something_else_is_a_conflict(warm: Daemon) -> None:
    assert [init(warm, said).status for said in (MINE, MINE, {**MINE, "sandbox_id": "sb_2"}, {})] == [
        *(200, 200, 409, 409)
    ]


def test_of_many_at_once_one_wins(warm: Daemon) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: init(warm, {"sandbox_id": f"sb_{number}"}), range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7


def test_nothing_is_told_or_read_before_the_token_is_checked(warm: Daemon) -> None:
    wrong = (b"{", b"[]", b" " * (2 << 20), b'{"unknown": 1}')
    assert {warm.call("POST", "/v1/init", body, token=None).status for body in wrong} <= {401, 429}
    init(warm, MINE)
    assert {warm.call("POST", "/v1/init", body, token=OWN).status for body in wrong} <= {401, 429}
    document = json.loads(warm.call("GET", "/openapi.json", token=OWN).body)
    assert document["paths"]["/v1/init"]["post"].get("security") != []


@pytest.mark.parametrize("token", [None, OWN, "pool"])
def test_nobody_claims_it_without_the_pool_s_token(warm: Daemon, token: str | None) -> None:
    assert init(warm, MINE, token).status == 401
    assert init(warm, MINE).status == 200


@pytest.mark.parametrize(
    "said",
    [
        *({"default_user": "nobody-of-that-name"}, {"sandbox": "sb_1"}, {"environment": {"A": 1}}, {"cwd": "here"}),
        # Nobody could ever send these.
        *({"token": token} for token in ("", " x", "a\nb", "gr\u00fcn", "sha256:abc", f"sha256:{'A' * 64}")),
        # No program could be started.
        *({"environment": variables} for variables in ({"": "x"}, {"a=b": "x"}, {"A": "\0"}, {"A\0": "x"})),
        *({"sandbox_id": ""}, {"default_user": ""}, {"cwd": "/a\0"}),
    ],
)
def test_what_cannot_be_changes_nothing(warm: Daemon, said: dict[str, object]) -> None:
    assert init(warm, said).status == 400
    assert init(warm, MINE).status == 200


def test_it_is_the_same_sandbox_after_a_restart_even_after_sigkill(warm: Daemon) -> None:
    init(warm, MINE)
    warm.kill9()
    warm.restart()
    assert run(warm, "echo $GREETING") == "good morning\n"
    assert (init(warm, MINE).status, init(warm, {"sandbox_id": "sb_2"}).status) == (200, 409)


def test_the_token_is_told_to_nobody(warm: Daemon) -> None:
    init(warm, {**MINE, "default_user": "root"})
    assert OWN not in run(warm, "env; cat /proc/self/environ")
    assert OWN not in json.dumps(warm.log())
    kept = warm.root / "workspace/.nullspace/init"
    assert (kept.stat().st_mode & 0o077, OWN in kept.read_text()) == (0, False)


def test_a_damaged_identity_is_named_at_the_start(warm: Daemon) -> None:
    init(warm, MINE)
    warm.kill9()
    (warm.root / "workspace/.nullspace/init").write_text("{")
    with pytest.raises(RuntimeError, match="ended with 78"):
        warm.restart()


def test_a_token_may_be_told_by_its_digest(warm: Daemon) -> None:
    digest = f"sha256:{hashlib.sha256(OWN.encode()).hexdigest()}"
    assert init(warm, {**MINE, "token": digest}).status == 200
    codes = [warm.call("GET", "/v1/capabilities", token=token).status for token in (OWN, digest, POOL)]
    assert codes == [200, 401, 401]


def test_once_it_ends_it_becomes_nobody_s_and_holds_up_no_one(warm: Daemon) -> None:
    warm.restart(*warm._flags, "--drain-notice", str(3 * UNIT))
    warm.signal(signal.SIGTERM)
    assert eventually(lambda: warm.call("GET", "/readyz", token=None).status == 503)
    answer = init(warm, MINE)
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "unavailable")
    assert warm.wait() == 0
    assert not (warm.root / "workspace/.nullspace/init").exists()


def test_it_ends_while_it_waits(warm: Daemon) -> None:
    assert warm.term() == 0
