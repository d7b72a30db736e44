"""The origin that URLs begin with, and the pages that may ask."""

from collections.abc import Mapping

import pytest

from agentd.errors import InvalidRequest, PermissionDenied
from agentd.http.origin import Origins

PROXIED = {"Host": "inside:8811", "X-Forwarded-Proto": "evil, https", "X-Forwarded-Host": "evil, box.example"}


@pytest.mark.parametrize(
    ("origins", "headers", "peer", "url"),
    [
        (Origins("https://box.example/a/"), PROXIED, "10.0.0.1", "https://box.example/a"),
        (Origins(), PROXIED, "10.0.0.1", "http://inside:8811"),
        (Origins(proxies=["10.0.0.0/8"]), PROXIED, "10.0.0.1", "https://box.example"),
        (Origins(proxies=["10.0.0.0/8"]), PROXIED, "::ffff:10.0.0.1", "https://box.example"),
        (Origins(proxies=["10.0.0.0/8"]), PROXIED, "11.0.0.1", "http://inside:8811"),
        (Origins(proxies=["fd00::/8", "unix"]), PROXIED, "fd00::1%eth0", "https://box.example"),
        (Origins(proxies=["unix"]), PROXIED, None, "https://box.example"),
        (Origins(proxies=["unix"]), PROXIED, "127.0.0.1", "http://inside:8811"),
        (Origins(), PROXIED, None, "http://inside:8811"),
        (Origins(), {"Host": "[::1]:8811"}, "::1", "http://[::1]:8811"),
        (
            Origins(proxies=["127.0.0.1"]),
            {**PROXIED, "Forwarded": 'for=1.2.3.4;host=evil, for=2.3.4.5; Host="[fd00::1]:80" ;proto=https'},
            "127.0.0.1",
            "https://[fd00::1]:80",
        ),
    ],
)
def test_the_origin_is_what_is_configured_or_what_a_trusted_one_says(
    origins: Origins, headers: Mapping[str, str], peer: str | None, url: str
) -> None:
    assert origins.public_url(headers, peer, "http") == url


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@host", "a:b", "a\r\nb", "h\u00e9"])
def test_a_host_that_is_none_makes_no_url(host: str) -> None:
    with pytest.raises(InvalidRequest, match="public_url"):
        Origins().public_url({"Host": host}, "127.0.0.1", "http")


def test_a_network_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="somewhere"):
        Origins(proxies=["somewhere"])


@pytest.mark.parametrize(
    ("pages", "headers", "may"),
    [
        ((), {}, True),
        ((), {"Origin": "http://127.0.0.1:1", "Host": "127.0.0.1:1"}, True),
        ((), {"Origin": "http://evil.example", "Host": "127.0.0.1:1"}, False),
        ((), {"Origin": "null", "Host": "127.0.0.1:1"}, False),
        (("https://app.example/",), {"Origin": "https://app.example", "Host": "127.0.0.1:1"}, True),
        (("*",), {"Origin": "http://evil.example", "Host": "127.0.0.1:1"}, True),
    ],
)
def test_without_a_token_the_pages_of_others_may_not_ask(
    pages: tuple[str, ...], headers: Mapping[str, str], may: bool
) -> None:
    if may:
        Origins(pages=pages).admit(headers)
    else:
        with pytest.raises(PermissionDenied, match="cors_origins"):
            Origins(pages=pages).admit(headers)
