"""Signed URLs: a token that lets whoever has it do one thing with one path for a while, without the daemon's token.

    v1_<claims>.<signature>      both base64url without padding (RFC 4648 section 5)

The claims are a JSON array: methods, path, user, expiry, most bytes, sandbox. The signature is HMAC-SHA256 (RFC 2104)
of all that stands before the dot. Its key is derived from one of the daemon's tokens by HKDF-SHA256 (RFC 5869): nothing
has to be kept, and a token that is taken away takes its URLs along.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import msgspec

from agentd.errors import InvalidRequest, PermissionDenied, Unauthorized
from agentd.http.codec import decode_json, encode

VERSION = "v1_"
SALT, PURPOSE = b"agentd", b"signed URLs v1"
SKEW_SECONDS = 30.0  # by which the clocks of a control plane and a sandbox may differ
DIGEST = b"sha256:"  # before the digest of a token
HASHED = "sha256:[0-9a-f]{64}"
LONGEST = 12288  # characters of a token: a path of 4096 bytes, each written as \\u00xx at worst


class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a signed URL allows. path, user: as the call would name them. expires: Unix seconds. max_bytes: of what is
    written; None for the daemon's own limits. sandbox: see `Stand`; the server sets and checks it."""

    methods: tuple[str, ...]
    path: str
    user: str | None
    expires: float
    max_bytes: int | None = None
    sandbox: str | None = None


class Signer:
    """Makes and checks the tokens of signed URLs.

    tokens() gives the daemon's tokens that are valid now: the first signs, each verifies. None, where there are none,
    stands for a secret of this process, and so does one that is told by its digest alone.
    """

    def __init__(self, tokens: Callable[[], tuple[bytes, ...] | None], now: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._now = now
        self._own = secrets.token_bytes(32)

    def sign(self, grant: Grant) -> str:
        """The token of a grant: letters, digits, ``-``, ``_`` and one dot."""
        text = VERSION + _armoured(encode(grant))
        return f"{text}.{_armoured(_signature(self._keys()[0], text))}"

    def verify(self, token: str, method: str) -> Grant:
        """The grant of a token. Raises Unauthorized where it is forged or has expired, PermissionDenied where it is for
        another method."""
        text, _, signature = token.partition(".")
        given = _bare(signature)
        # Each key is tried, each in constant time, so that the time tells nothing.
        valid = sum(hmac.compare_digest(given, _signature(key, text)) for key in self._keys())
        if not valid or not text.startswith(VERSION) or len(token) > LONGEST:
            raise Unauthorized("this URL was not signed here, or what signed it is no longer valid")
        try:
            grant: Grant = decode_json(_bare(text.removeprefix(VERSION)), Grant)
        except InvalidRequest:
            raise Unauthorized("this URL was signed by another version of the daemon") from None
        if self._now() > grant.expires + SKEW_SECONDS:
            raise Unauthorized("this URL has expired; ask for a new one")
        if method not in grant.methods:
            raise PermissionDenied(f"this URL is for {' and '.join(grant.methods)}, not for {method}")
        return grant

    def _keys(self) -> list[bytes]:
        known = self._tokens() or (self._own,)
        return [_derived(self._own + token if token.startswith(DIGEST) else token) for token in known]


def digest_of(token: bytes) -> bytes:
    """What stands for a token where it is not to be told; a digest stands for itself."""
    return token if token.startswith(DIGEST) else DIGEST + hashlib.sha256(token).hexdigest().encode()


def _derived(token: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869): extract, then the first block of expand."""
    return hmac.digest(hmac.digest(SALT, token, "sha256"), PURPOSE + b"\x01", "sha256")


def _signature(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(errors="surrogateescape"), "sha256")


def _armoured(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bare(text: str) -> bytes:
    """Empty for what is no base64url."""
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""
