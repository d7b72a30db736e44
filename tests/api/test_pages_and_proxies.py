"""Web pages and proxies between a client and the daemon."""

import pytest

from tests.conftest import Daemon, StartDaemon

APP = {"Origin": "https://app.example"}
EVIL = {"Origin": "https://evil.example"}
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


def test_pages_may_ask_for_health_and_for_nothing_else(daemon: Daemon) -> None:
    assert daemon.call("GET", "/healthz", headers=APP, token=None).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in daemon.call("GET", "/healthz", token=None).headers
    assert "access-control-allow-origin" not in daemon.call("GET", "/version", headers=APP).headers


@pytest.mark.parametrize("path", ["/v1/machines", "/v1/machines/mch_1/uploads", "/nowhere"])
def test_a_preflight_is_answered_without_a_token_and_allows_no_origin(daemon: Daemon, path: str) -> None:
    answer = daemon.call("OPTIONS", path, headers={**EVIL, **PREFLIGHT}, token=None)
    assert (answer.status, answer.body) == (200, b"")
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_configured_origins_may_read_answers_and_errors(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--cors-origins", "https://app.example", "--cors-origins", "https://other.example")
    preflight = daemon.call("OPTIONS", "/version", headers={**APP, **PREFLIGHT}, token=None)
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    for path, token in (("/version", ""), ("/version", None), ("/nowhere", "")):
        answer = daemon.call("GET", path, headers=APP, token=token)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-origin" not in daemon.call("GET", "/version", headers=EVIL).headers


def test_where_no_token_is_asked_for_the_pages_of_others_may_not_even_send(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--insecure")
    assert daemon.call("GET", "/version", headers=EVIL, token=None).status == 403
    assert daemon.call("GET", "/version", headers={"Origin": daemon.url}, token=None).status == 200
    assert daemon.call("GET", "/version", token=None).status == 200


def test_a_proxy_network_that_is_none_stops_the_start(start_daemon: StartDaemon) -> None:
    with pytest.raises(RuntimeError, match="trusted_proxies: "):
        start_daemon("--trusted-proxies", "somewhere")
