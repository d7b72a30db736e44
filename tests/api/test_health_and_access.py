"""Who gets an answer, and what anybody may ask."""

import http.client
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from tests.conftest import Daemon, StartDaemon

HEALTH = ["/livez", "/readyz", "/healthz"]


@pytest.mark.parametrize("path", HEALTH)
def test_health_is_open_says_little_and_is_not_logged(daemon: Daemon, path: str) -> None:
    answer = daemon.call("GET", path, token=None)
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
    assert "aiohttp" not in str(answer.headers)
    assert [line for line in daemon.log() if line["logger"] == "agentd.access"] == []


def test_a_workspace_that_is_gone_is_not_ready_but_alive(daemon: Daemon) -> None:
    shutil.rmtree(daemon.root / "workspace")
    assert daemon.call("GET", "/readyz", token=None).status == 503
    assert daemon.call("GET", "/livez", token=None).status == 200


@pytest.mark.parametrize(
    "path", ["/version", "/metrics", "/v1/capabilities", "/openapi.json", "/v1/uploads", "/x", "/livez/"]
)
def test_nothing_else_answers_without_a_token(daemon: Daemon, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = daemon.call(method, path, token=None)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthorized"


def test_the_token_is_taken_from_either_header(daemon: Daemon) -> None:
    assert daemon.call("GET", "/version").status == 200
    assert daemon.call("GET", "/version", headers={"X-Access-Token": daemon.token}, token=None).status == 200
    assert daemon.call("GET", "/version", token=daemon.token + "x").status == 401


def test_a_token_is_made_kept_private_and_its_file_named(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    file = daemon.root / "workspace/.nullspace/token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert any(str(file) in line["message"] for line in daemon.log())
    assert daemon.token not in str(daemon.log())
    first = daemon.token
    daemon.restart()
    assert daemon.token == first


def test_a_digest_that_is_none_is_refused_at_the_start(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("sha256:abc\n")
    with pytest.raises(RuntimeError, match="64 hexadecimal digits"):
        start_daemon("--token-file", str(tmp_path / "tokens"))


def test_several_tokens_are_valid_and_can_be_changed_while_it_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("one\n\ntwo\n")
    daemon = start_daemon("--token-file", str(file))
    assert [daemon.call("GET", "/version", token=token).status for token in ("one", "two", "three")] == [200, 200, 401]
    file.write_text("two\nthree\n")
    daemon.signal(signal.SIGHUP)
    while daemon.call("GET", "/version", token="three").status != 200:
        pass
    assert daemon.call("GET", "/version", token="one").status == 401


def test_guessing_is_braked_and_the_owner_is_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--limits-unauthenticated-per-second", "1")
    answers = [daemon.call("GET", "/version", token="guess") for _ in range(5)]
    assert answers[0].status == 401
    assert (answers[-1].status, answers[-1].json()["code"]) == (429, "rate_limit_exceeded")
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert daemon.call("GET", "/version").status == 200
    assert daemon.call("GET", "/livez", token=None).status == 200


def test_insecure_asks_for_no_token(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--insecure")
    assert daemon.call("GET", "/version", token=None).status == 200
    assert not (daemon.root / "workspace/.nullspace/token").exists()


def test_version_capabilities_and_metrics_say_what_is_here(daemon: Daemon) -> None:
    assert daemon.call("GET", "/version").json()["version"]
    found = daemon.call("GET", "/v1/capabilities").json()
    assert found["durability"] in ("process", "power")
    assert found["kernel"] == os.uname().release
    assert all(isinstance(works, bool) for works in found["features"].values())
    metrics = daemon.call("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'agentd_request_seconds_count{dialect="agentd",endpoint="version"} 1' in metrics.body


def test_the_api_describes_itself(daemon: Daemon) -> None:
    document = daemon.call("GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    part = document["paths"]["/v1/machines/{machine_id}/uploads"]["post"]
    assert part["requestBody"]["content"]["application/json"]["schema"]["$ref"].startswith("#/components/schemas/")
    names = [one["name"] for one in part["parameters"] if one["in"] == "path"]
    assert names == ["machine_id"]


def test_a_log_line_tells_the_outcome_and_no_path_or_token(daemon: Daemon) -> None:
    daemon.call("GET", "/v1/private?secret=1", headers={"X-Request-Id": "r-7"})
    token = daemon.token
    daemon.term()
    line = next(line for line in daemon.log() if line.get("request_id") == "r-7")
    assert (line["message"], line["status"], line["code"], line["bytes_in"]) == ("request", 404, "not_found", 0)
    assert line["ms"] >= 0
    assert line["bytes_out"] > 0
    for word in ("private", "secret", token):
        assert word not in str(line)


def test_a_connection_is_kept_alive_over_many_requests(daemon: Daemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    connection.request("GET", "/livez")
    connection.getresponse().read()
    first = connection.sock
    for path in ("/nowhere", "/version", "/readyz"):
        connection.request("GET", path, headers={"Authorization": f"Bearer {daemon.token}"})
        connection.getresponse().read()
    assert connection.sock is first
    connection.close()
