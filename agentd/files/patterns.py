"""What is sought in the content of files: a text as it stands, or a regular expression.

Expressions are those of RE2 (https://github.com/google/re2/wiki/Syntax): no backreferences, no lookaround. In exchange
each takes time linear in the text and bounded memory, whatever it is, and matching leaves other threads alone. Python's
``re`` holds all of them (the event loop too) for as long as ``(a+)+$`` likes, and the ``regex`` package, which has a
time limit, spends seconds and gigabytes on compiling ``(?:(?:a{900}){900}){900}``.

    pattern = compiled("fo+", literal=None, ignore_case=False)
    span = pattern.search(data, 0, len(data))             # (start, end) or None
    changed, count = yield from pattern.replaced(data, b"bar")        # all of them, in steps

Text is bytes, taken as UTF-8: ``.`` is one character, and no byte that is not UTF-8. A `Pattern` may be used by several
threads at once. Everything here blocks, but for `compiled`, which is quick once RE2 has been loaded.
"""

import os
import sys
from typing import Any

import msgspec

from agentd.errors import InvalidRequest, RequestTooLarge
from agentd.linux.steps import NEXT, Steps

LENGTH_LIMIT = 4096  # bytes of a pattern
_MEMORY = 8 << 20  # bytes of an expression's automata
# For one step: matches of an expression, bytes in which a text is sought.
_TOGETHER = 2048
_PIECE = 256 << 10
_SPECIAL = frozenset(rb"\.^$*+?{}[]|()" + b"\n")  # without these an expression is a plain text


class Pattern(msgspec.Struct, frozen=True):
    """text: sought as it stands, None where an expression has to tell. _expression: of RE2."""

    text: bytes | None
    _expression: Any

    def search(self, data: bytes | bytearray, start: int, end: int) -> tuple[int, int] | None:
        """The first match that lies between the two offsets; ``^``, ``$`` and ``\\b`` see what is around them."""
        if self.text is not None:
            found = data.find(self.text, start, end)
            return None if found < 0 else (found, found + len(self.text))
        match = self._expression.search(data, start, end)
        return None if match is None else match.span()

    def replaced(
        self, data: bytes, replacement: bytes, most: int = sys.maxsize
    ) -> Steps[tuple[bytes | bytearray, int]]:
        """``data`` with ``replacement``, as it stands, for each match, from left to right; and how many there were.

        RequestTooLarge for more than ``most`` bytes of what comes of it."""
        if self.text is not None:
            return (yield from _literally(self.text, data, replacement, most))
        made, count, kept, position = bytearray(), 0, 0, 0
        while position <= len(data) and (span := self.search(data, position, len(data))) is not None:
            start, end = span
            made += data[kept:start]
            made += replacement
            _check_size(len(made), most)
            count, kept = count + 1, end
            position = end if end > start else _next_character(data, end)
            if not count % _TOGETHER:
                yield NEXT
        made += data[kept:]
        _check_size(len(made), most)
        return made, count


def _literally(text: bytes, data: bytes, replacement: bytes, most: int) -> Steps[tuple[bytes | bytearray, int]]:
    """In pieces: one ``replace`` would hold all threads for as long as it takes."""
    made, count, position = bytearray(), 0, 0
    if text not in data:
        return data, 0
    while position < len(data):
        between = data[position : position + _PIECE].split(text)
        position += _PIECE
        if position < len(data):
            begun = min(len(between[-1]), len(text) - 1)  # what may be the beginning of a match
            position -= begun
            between[-1] = between[-1][: len(between[-1]) - begun]
        count += len(between) - 1
        _check_size(len(made) + (len(between) - 1) * len(replacement), most)
        made += replacement.join(between)
        yield NEXT
    _check_size(len(made), most)
    return made, count


def compiled(text: str, *, literal: bool | None = None, ignore_case: bool = False, in_line: bool = False) -> Pattern:
    """What ``text`` seeks. Raises InvalidRequest for an empty or overlong text.

    literal: None takes it for an expression, and for a plain text where it is none; False refuses such a text with
    InvalidRequest. in_line: no match goes beyond a line, and ``^`` and ``$`` are the ends of lines.
    """
    raw = os.fsencode(text)
    if not 0 < len(raw) <= LENGTH_LIMIT:
        raise InvalidRequest(f"a pattern has 1 to {LENGTH_LIMIT} bytes, this one {len(raw)}", field="pattern")
    if not ignore_case and not _SPECIAL & set(raw):
        return Pattern(raw, None)
    how = {"never_nl": in_line, "never_capture": True, "case_sensitive": not ignore_case}
    if not literal:
        try:
            found = expression(raw, **how)
            return Pattern(None, expression(b"(?m)" + raw, **how) if in_line else found)
        except ValueError as error:
            if literal is False:
                raise InvalidRequest(f"{text!r} is no regular expression: {error}", field="pattern") from None
    return Pattern(None, expression(raw, literal=True, **how)) if ignore_case else Pattern(raw, None)


def expression(raw: bytes, **options: bool) -> Any:
    """What RE2 makes of an expression; options: of its own, by name. ValueError with its reason.

    It is loaded here: a daemon that never searches does without its 3 MB.
    """
    import re2  # type: ignore[import-untyped]

    chosen = re2.Options()
    chosen.log_errors = False
    chosen.max_mem = _MEMORY
    for name, value in options.items():
        setattr(chosen, name, value)
    try:
        return re2.compile(raw, chosen)
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        raise ValueError(os.fsdecode(reason)) from None
    finally:
        re2.purge()  # it keeps the last expressions, each with its automata


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise RequestTooLarge(f"the replaced text would have more than {most} bytes", limit=most)


def _next_character(data: bytes, position: int) -> int:
    """Behind the UTF-8 character at ``position``: between its bytes nothing is to be put."""
    position += 1
    while position < len(data) and data[position] & 0xC0 == 0x80:
        position += 1
    return position
