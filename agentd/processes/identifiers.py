"""The names of terminals and sessions: the caller's, or one of ours."""

import re
import secrets

from agentd.errors import InvalidRequest

_FORM = re.compile(r"[A-Za-z0-9._-]{1,128}")


def identifier(given: str, kind: str) -> str:
    """``given``, or where that is empty ``KIND_`` and 16 hex digits. InvalidRequest for what is no name."""
    if not given:
        return f"{kind}_{secrets.token_hex(8)}"
    if not _FORM.fullmatch(given):
        raise InvalidRequest("an id has 1 to 128 letters, digits, dots, dashes and underscores; leave it out for one")
    return given
