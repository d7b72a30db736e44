"""Signed URLs: what a token grants, how it ends, and that it opens nothing else."""

from collections.abc import Iterator

import pytest

from agentd.errors import PermissionDenied, Unauthorized
from agentd.http.signing import Grant, Signer


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def signer(*tokens: bytes, clock: Clock | None = None) -> Signer:
    return Signer(lambda: tokens or None, clock or Clock())


GRANTS = [
    Grant(("GET",), "/workspace/a.txt", None, 1060.0),
    Grant(("PUT", "POST"), "rel/\u00e9 \udcff", "user", 1060.5, 10 << 30),
    Grant(("GET",), "/" + 4095 * "\u00e9", "", 1e9, 0),
]


@pytest.mark.parametrize("grant", GRANTS)
def test_what_is_signed_is_what_is_granted(grant: Grant) -> None:
    one = signer(b"secret")
    token = one.sign(grant)
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    assert one.verify(token, grant.methods[-1]) == grant


def test_any_valid_token_verifies_and_one_that_is_gone_takes_its_urls_along() -> None:
    token = signer(b"old").sign(GRANTS[0])
    assert signer(b"new", b"old").verify(token, "GET") == GRANTS[0]
    with pytest.raises(Unauthorized, match="no longer valid"):
        signer(b"new").verify(token, "GET")


def test_without_tokens_only_the_process_that_signed_verifies() -> None:
    one = signer()
    assert one.verify(one.sign(GRANTS[0]), "GET") == GRANTS[0]
    with pytest.raises(Unauthorized):
        signer().verify(one.sign(GRANTS[0]), "GET")


def test_it_expires_half_a_minute_late() -> None:
    clock = Clock()
    one = signer(b"secret", clock=clock)
    token = one.sign(GRANTS[0])
    clock.seconds = 1090.0
    one.verify(token, "GET")
    clock.seconds = 1090.1
    with pytest.raises(Unauthorized, match="expired"):
        one.verify(token, "GET")


def test_it_is_for_its_methods_alone() -> None:
    one = signer(b"secret")
    with pytest.raises(PermissionDenied, match="for PUT and POST, not for GET"):
        one.verify(one.sign(GRANTS[1]), "GET")


def forgeries() -> Iterator[str]:
    token = signer(b"secret").sign(GRANTS[0])
    claims, _, signature = token.partition(".")
    yield from ("", ".", "v1_", "v1_.", "v1_W10.", token[:-1], token + "A", claims, f".{signature}", f"{claims}.x")
    yield from (
        f"{claims}A.{signature}",
        f"V1_{claims[3:]}.{signature}",
        f"{claims}.{'A' * 43}",
        f"{claims}.{signature}.",
    )
    yield from ("\udcff." + signature, f"{claims}.\u00e9", token.replace("_", "-", 1))


@pytest.mark.parametrize("token", [*forgeries()])
def test_what_was_not_signed_here_is_refused(token: str) -> None:
    with pytest.raises(Unauthorized):
        signer(b"secret").verify(token, "GET")


def test_no_changed_character_is_taken() -> None:
    one = signer(b"secret")
    token = one.sign(GRANTS[0])
    claims = token.partition(".")[0]
    for at in range(len(claims)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(Unauthorized):
            one.verify(changed, "GET")
