"""Tokens, and the brake on those without one."""

import time
from collections.abc import Mapping
from hashlib import sha256

import pytest

from agentd.errors import RateLimited, Unauthorized
from agentd.http.access import PEERS, Access, Brake
from agentd.http.signing import Grant


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def access(*tokens: bytes, per_second: float = 100) -> Access:
    return Access(lambda: tokens, Brake(per_second, Clock()))


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer new"},
        {"Authorization": "bearer  old "},
        {"X-Access-Token": "new"},
        {"Authorization": "Basic eDp5", "X-Access-Token": "old"},
        {"Authorization": "Bearer wrong", "X-Access-Token": "old"},
    ],
)
def test_any_valid_token_in_either_header_opens(headers: Mapping[str, str]) -> None:
    access(b"old", b"new").check(headers, "peer")


@pytest.mark.parametrize(
    "headers",
    [
        *({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}, {"Authorization": "token"}),
        *({"Authorization": "Basic token"}, {"Authorization": "Bearer tokens"}, {"X-Access-Token": ""}),
        *({"X-Access-Token": "tok\udcff"}, {"X-Access-Token": "T\u00d6KEN"}),
    ],
)
def test_everything_else_is_unauthorized(headers: Mapping[str, str]) -> None:
    with pytest.raises(Unauthorized):
        access(b"token").check(headers, "peer")


def test_a_token_that_is_told_by_its_digest_opens_and_the_digest_does_not() -> None:
    digest = b"sha256:" + sha256(b"token").hexdigest().encode()
    access(digest).check({"Authorization": "Bearer token"}, "peer")
    with pytest.raises(Unauthorized):
        access(digest).check({"Authorization": f"Bearer {digest.decode()}"}, "peer")


def test_who_knows_the_digest_alone_cannot_sign_a_url() -> None:
    digest = b"sha256:" + sha256(b"token").hexdigest().encode()
    grant = Grant(("GET",), "/f", None, time.time() + 60)
    mine, other = access(digest), access(digest)
    assert mine.signer.verify(mine.signer.sign(grant), "GET") == grant
    with pytest.raises(Unauthorized):
        mine.signer.verify(other.signer.sign(grant), "GET")


def test_failures_are_braked_and_a_valid_token_never_is() -> None:
    door = access(b"token", per_second=2)
    for _ in range(2):
        with pytest.raises(Unauthorized):
            door.check({}, "peer")
    with pytest.raises(RateLimited) as caught:
        door.check({}, "peer")
    assert caught.value.facts == {"retry_after": 0.5, "limit": 2}
    door.check({"X-Access-Token": "token"}, "peer")
    with pytest.raises(Unauthorized):
        door.check({}, "another peer")


def test_a_peer_may_try_again_after_the_time_it_is_told() -> None:
    clock = Clock()
    brake = Brake(0.5, clock)
    assert brake.take("peer") == 0
    wait = brake.take("peer")
    assert wait == 2
    clock.seconds += wait
    assert brake.take("peer") == 0


def test_the_brake_remembers_a_bounded_number_of_peers() -> None:
    brake = Brake(1, Clock())
    for number in range(PEERS + 1):
        assert brake.take(str(number)) == 0
    assert brake.take(str(PEERS)) > 0
    assert brake.take("0") == 0
