"""What people and programs read on standard output: names that do no harm, colours, JSON."""

import json
import os
import sys

RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "31", "32", "33", "34", "35", "36"


def harmless(text: str) -> str:
    """The text with what could steer a terminal, or mislead its reader, as escapes: ``\\n``, ``\\x1b``, ``\\u202e``.

    A byte that is no UTF-8 (PEP 383) is shown as such: ``\\xff``.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    code = ord(one)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return one.encode("unicode_escape").decode()


def is_terminal() -> bool:
    """Whether a person sees what is printed."""
    return sys.stdout.isatty()


def colourful() -> bool:
    """On a terminal that can, unless NO_COLOR is set (no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and colourful() else text


def put_out(text: str) -> None:
    """A line, at once. Bytes that are no UTF-8 come out as they were."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def write(fd: int, content: bytes) -> None:
    """All of it, as it is. Blocks; OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def put_json(value: object) -> None:
    """A line of JSON in ASCII, at once: harmless too, and a lone surrogate (PEP 383) stays what it is."""
    put_out(json.dumps(value))


def put_lines(line: bytes) -> None:
    """JSON as it came, likewise; not at once."""
    sys.stdout.buffer.write((line if line.isascii() else json.dumps(json.loads(line)).encode()) + b"\n")
