"""The origin that this daemon is reached by, for URLs that it gives out, and the origins of pages that may ask it."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from agentd.errors import InvalidRequest, PermissionDenied

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:\d{1,5})?")
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
EXPOSED = "Content-Disposition, Content-Range, ETag, Location, Retry-After, X-Request-Id"
PREFLIGHT_SECONDS = "600"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Origins:
    """configured: the daemon's own origin, where it is known, such as ``https://box.example/agent``. proxies: networks
    (CIDR) whose word about the original request is taken; ``unix`` for those who come by a unix socket. pages: origins
    of web pages that may read answers; ``*`` for all. ValueError for what is none."""

    def __init__(self, configured: str | None = None, proxies: Sequence[str] = (), pages: Sequence[str] = ()) -> None:
        self._configured = configured.rstrip("/") if configured else None
        self._networks: list[Network] = [ipaddress.ip_network(one, strict=False) for one in proxies if one != "unix"]
        self._unix = "unix" in proxies
        self._pages = frozenset(page.rstrip("/").lower() for page in pages)

    def public_url(self, headers: Mapping[str, str], peer: str | None, scheme: str) -> str:
        """``https://host:port`` without a slash at its end, by which the client of a request has reached us.

        The configured one, else what a trusted proxy says in Forwarded (RFC 7239) or X-Forwarded-Proto and -Host, else
        the Host header and ``scheme``. peer: its address, None for a unix socket. InvalidRequest where no usable host
        is named.
        """
        if self._configured is not None:
            return self._configured
        host = headers.get("Host", "")
        if self._trusts(peer):
            said = _forwarded(headers.get("Forwarded", ""))
            scheme = said.get("proto") or _last(headers.get("X-Forwarded-Proto", "")) or scheme
            host = said.get("host") or _last(headers.get("X-Forwarded-Host", "")) or host
        if not HOST.fullmatch(host) or scheme.lower() not in ("http", "https"):
            raise InvalidRequest("the request does not say by which host the daemon is reached; set public_url")
        return f"{scheme.lower()}://{host}"

    def _trusts(self, peer: str | None) -> bool:
        if not peer:
            return self._unix
        address = ipaddress.ip_address(peer.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)

    def admit(self, headers: Mapping[str, str]) -> None:
        """Raises PermissionDenied for a request that a page of another origin has made (RFC 6454). For daemons without
        a token: a browser lets any page send to them what a form could send, and open sockets."""
        origin = headers.get("Origin")
        if origin is not None and not self._may(origin) and urlsplit(origin).netloc != headers.get("Host"):
            raise PermissionDenied("pages of this origin may not use this daemon; see cors_origins")

    def allow(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers that let a page read the answer to a request (Fetch standard, CORS protocol). No credentials are
        meant: browsers keep none for us."""
        origin = headers.get("Origin")
        if origin is None or not self._may(origin):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The answer to OPTIONS with an Origin, which browsers send without a token: it says nothing of the path."""
        allowed = self.allow(headers)
        if allowed and (asked := headers.get("Access-Control-Request-Headers")):
            allowed["Access-Control-Allow-Headers"] = asked
        return {**allowed, "Access-Control-Allow-Methods": METHODS, "Access-Control-Max-Age": PREFLIGHT_SECONDS}

    def _may(self, origin: str) -> bool:
        return "*" in self._pages or origin.lower() in self._pages


def _last(values: str) -> str:
    """What the proxy that speaks to us has added; what stands before it, anybody may have."""
    return values.rpartition(",")[2].strip()


def _forwarded(value: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in _last(value).split(";"))
    return {name.strip().lower(): given.strip().strip('"') for name, _, given in pairs}
