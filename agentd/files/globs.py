"""Patterns for names: what is wanted (`Glob`) and what is to be left out (`Ignore`, as gitignore(5) has it).

``*`` and ``?`` stand for characters of one name, ``[a-z]`` and ``[!a-z]`` for one of them, ``**`` as a whole segment
for any directories, none included; a backslash takes the meaning from the next character. All become expressions of
RE2, so that no pattern takes more than linear time.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

from agentd.errors import InvalidRequest
from agentd.files.patterns import LENGTH_LIMIT, expression

_MOST = 1000  # patterns of an `Ignore`
_TOKEN = re.compile(r"\\(?P<escaped>.)|(?P<star>\*+)|(?P<any>\?)|\[(?P<not>[!^]?)(?P<set>\]?[^\]]*)\]|(?P<one>.)", re.S)
# A byte that is not UTF-8 is matched as a character of its own, of a plane that is nobody's.
_BYTES = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}


class Glob:
    """``*.py`` is any such name, ``src/**/*.py`` a path below the place that is searched."""

    def __init__(self, pattern: str) -> None:
        """InvalidRequest for what is no pattern."""
        wanted = pattern.strip("/")
        self._of_name = "/" not in wanted
        self._expression = _compiled(_translated(wanted), f"{pattern!r} is no pattern for names")

    def matches(self, path: str, name: str) -> bool:
        """path: relative to that place."""
        return self._expression.fullmatch(_bytes(name if self._of_name else path)) is not None


class Ignore:
    """Patterns in their order, the last that matches decides: ``!`` in front takes back, a slash at the end means
    directories alone, one before that a path from the top. What is in a directory that is left out is not looked at.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Empty ones and those that begin with ``#`` say nothing. InvalidRequest for what is no pattern."""
        rules = [rule for line in patterns if (rule := _rule(line)) is not None]
        if len(rules) > _MOST:
            raise InvalidRequest(f"{len(rules)} patterns; at most {_MOST} are possible", field="ignore")
        # Of several that match RE2 prefers the first.
        rules.reverse()
        self._takes_back = [takes_back for takes_back, _ in rules]
        text = "|".join(f"({text})" for _, text in rules)
        self._any = _compiled(text, "of the patterns to ignore one is none") if rules else None

    def skips(self, path: str, is_directory: bool) -> bool:
        """path: relative to the top."""
        if self._any is None or (match := self._any.fullmatch(_bytes(path) + b"/" * is_directory)) is None:
            return False
        return not next(back for group, back in enumerate(self._takes_back, 1) if match.span(group) != (-1, -1))


def _rule(line: str) -> tuple[bool, str] | None:
    """Whether it takes back, and its expression, for paths where a directory has a slash at its end."""
    stripped = line.rstrip()
    line = stripped + line[len(stripped) :][:1] * stripped.endswith("\\")
    if not line or line.startswith("#"):
        return None
    takes_back = line.startswith("!")
    line = line[takes_back:]
    path = line.rstrip("/")
    anywhere = "" if "/" in path else "(?:.*/)?"
    return takes_back, anywhere + _translated(path.lstrip("/")) + ("/" if line.endswith("/") else "/?")


def _translated(pattern: str) -> str:
    """The expression of a pattern without slashes at its ends."""
    if not pattern or len(os.fsencode(pattern)) > LENGTH_LIMIT:
        raise InvalidRequest(f"a pattern has 1 to {LENGTH_LIMIT} bytes, unlike {pattern[:80]!r}", field="pattern")
    *directories, last = pattern.split("/")
    text = "".join("(?:.*/)?" if segment == "**" else _segment(segment) + "/" for segment in directories)
    return text + (".+" if last == "**" else _segment(last))


def _segment(segment: str) -> str:
    parts = []
    for token in _TOKEN.finditer(segment.translate(_BYTES)):
        if token["star"]:
            parts.append("[^/]*")
        elif token["any"]:
            parts.append("[^/]")
        elif token["set"] is not None:
            inside = re.sub(r"([\[\]^\\])", r"\\\1", token["set"])
            parts.append(f"[^/{inside}]" if token["not"] else f"[{inside}]")
        else:
            parts.append(re.escape(token["escaped"] or token["one"]))
    return "".join(parts)


def _compiled(text: str, trouble: str) -> Any:
    try:
        return expression(text.encode(), dot_nl=True)
    except ValueError as error:
        raise InvalidRequest(f"{trouble}: {error}", field="pattern") from None


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.translate(_BYTES).encode()
