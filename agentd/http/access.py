"""Who may ask: bearer tokens, signed URLs, and a brake on those who have neither."""

import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from agentd.errors import AgentError, InvalidRequest, PermissionDenied, RateLimited, Unauthorized
from agentd.http.codec import MAX_QUERY_FIELDS
from agentd.http.signing import DIGEST, Grant, Signer, digest_of

PEERS = 4096
SIGNATURE = "file_token"  # the query's field that holds the token of a signed URL


class Brake:
    """A token bucket for each peer: ``per_second`` tries, as many at once (`limit`). Remembers the last 4,096 peers."""

    def __init__(self, per_second: float, now: Callable[[], float]) -> None:
        self._rate = per_second
        self._burst = max(per_second, 1.0)
        self.limit = int(self._burst)
        self._now = now
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str) -> float:
        """Takes one try. Returns 0, or the seconds after which there is one again."""
        now = self._now()
        left, since = self._peers.pop(peer, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        taken = left >= 1
        self._peers[peer] = (left - taken, now)
        if len(self._peers) > PEERS:
            self._peers.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._rate


class Access:
    """The check that comes before every answer but those of health.

    tokens() gives the tokens that are valid now (several, for rotation), or None where no token is asked for. One may
    be told by its digest alone, ``sha256:`` and 64 hexadecimal digits: who can read that cannot ask for anything.
    signer: of the URLs that are taken in place of a token.
    """

    def __init__(self, tokens: Callable[[], tuple[bytes, ...] | None], brake: Brake) -> None:
        self._tokens = tokens
        self._brake = brake
        self.signer = Signer(tokens)

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self._tokens() is None

    def check(self, headers: Mapping[str, str], peer: str) -> None:
        """Raises Unauthorized without a valid token in ``Authorization: Bearer`` or ``X-Access-Token`` (some routers
        strip the former), and RateLimited once a peer has tried that too often."""
        valid = self._tokens()
        if valid is None:
            return
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        bearer = credentials.strip() if scheme.lower() == "bearer" else ""
        given = [
            token.encode(errors="surrogateescape") for token in (bearer, headers.get("X-Access-Token", "")) if token
        ]
        given = [token for token in given if not token.startswith(DIGEST)]
        given += [digest_of(token) for token in given]
        # Every pair is compared, each in constant time, so that the time tells nothing.
        if sum(hmac.compare_digest(one, other) for one in given for other in valid):
            return
        raise self._refusal(Unauthorized("send a valid token as Authorization: Bearer or X-Access-Token"), peer)

    def redeem(self, query: str, method: str, peer: str) -> Grant | None:
        """What the token in a raw query grants; None where there is none. Raises as `Signer.verify` does, and
        PermissionDenied where the query names another path or user; RateLimited as `check`."""
        if f"{SIGNATURE}=" not in query:
            return None
        try:
            named = parse_qs(query, True, errors="surrogateescape", max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise InvalidRequest(f"the query has more than {MAX_QUERY_FIELDS} fields") from None
        if SIGNATURE not in named:
            return None
        try:
            grant = self.signer.verify(named[SIGNATURE][0], method)
            if len(named[SIGNATURE]) > 1 or any(path != grant.path for path in named.get("path", ())):
                raise PermissionDenied("this URL was signed for another path")
            if any(user != (grant.user or "") for user in named.get("user", ())):
                raise PermissionDenied("this URL was signed for another user")
        except (Unauthorized, PermissionDenied) as error:
            raise self._refusal(error, peer) from None
        return grant

    def _refusal(self, error: AgentError, peer: str) -> AgentError:
        if wait := self._brake.take(peer):
            what = "too many requests without a valid token"
            return RateLimited(what, retry_after=round(wait, 3), limit=self._brake.limit)
        return error
