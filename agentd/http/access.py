"""Who may ask: bearer tokens, and a brake on those who have none."""

import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping

from agentd.errors import RateLimited, Unauthorized

PEERS = 4096


class Brake:
    """A token bucket for each peer: ``per_second`` tries, as many at once. Remembers the last 4,096 peers."""

    def __init__(self, per_second: float, now: Callable[[], float]) -> None:
        self._rate = per_second
        self._burst = max(per_second, 1.0)
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

    tokens() gives the tokens that are valid now (several, for rotation), or None where no token is asked for.
    """

    def __init__(self, tokens: Callable[[], tuple[bytes, ...] | None], brake: Brake) -> None:
        self._tokens = tokens
        self._brake = brake

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
        # Every pair is compared, each in constant time, so that the time tells nothing.
        if sum(hmac.compare_digest(one, other) for one in given for other in valid):
            return
        if wait := self._brake.take(peer):
            raise RateLimited("too many requests without a valid token", retry_after=round(wait, 3))
        raise Unauthorized("send a valid token as Authorization: Bearer or X-Access-Token")
