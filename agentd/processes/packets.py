"""What the interpreters of code contexts say, and how it is read: nothing in it can harm the daemon.

An interpreter is started with its code's source on the fd SOURCE, takes requests on REQUESTS, one JSON object a line
(``{"code", "number", "envs", "token"}``), and tells what happens on EVENTS, a socket of packets (SOCK_SEQPACKET), so
that those of forked children never mix. The first byte of a packet is its kind:

    o, e    bytes of standard output, of standard error
    S       a message as JSON
    B C M   a message in pieces: the first, those between, the last
    K       a program is about to be started that writes past the interpreter: any packet in return says that all that
            came before has been read

The messages are the Structs below, by ``type``. The code that runs there can send packets of its own: all that this
changes is its own answer.
"""

from typing import Any

import msgspec

from agentd.core.eventlog import Stream

REQUESTS, EVENTS, SOURCE = 3, 4, 5
MOST_PACKET = 64 << 10
MOST_MESSAGE = 20 << 20

_STREAMS = {ord("o"): Stream.STDOUT, ord("e"): Stream.STDERR}
_WHOLE, _FIRST, _LAST, _ASKS = b"SBMK"


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="result"):
    """A value as a client may show it, each form under its own name; png, jpeg and pdf in base64.

    is_main_result: the value of the code's last expression, and not one that it displayed on its way.
    """

    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    svg: str | None = None
    png: str | None = None
    jpeg: str | None = None
    pdf: str | None = None
    latex: str | None = None
    json: Any = None
    javascript: str | None = None
    data: Any = None
    is_main_result: bool = False


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The exception that ended the code, or what became of its interpreter."""

    name: str
    value: str
    traceback: str = ""


class Ready(msgspec.Struct, frozen=True, tag_field="type", tag="ready"):
    """The interpreter has started and can be interrupted."""


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    """The code of the request with this token has ended. status: a shell's exit status."""

    token: int
    status: int = 0


class Printed(msgspec.Struct, frozen=True):
    """Bytes of the code's output."""

    stream: Stream
    content: bytes


class Asked(msgspec.Struct, frozen=True):
    """The interpreter waits for a packet."""


Message = Shown | Failed | Ready | Done
_decoder = msgspec.json.Decoder(Shown | Failed | Ready | Done)


class Packets(msgspec.Struct):
    """Puts together what comes in pieces."""

    _pieces: list[bytes] = msgspec.field(default_factory=list)
    _size: int = 0

    def read(self, packet: bytes) -> Printed | Asked | Message | None:
        """What the packet brings to its end; None for nothing yet, and for what makes no sense."""
        kind, content = packet[0], packet[1:]
        if kind in _STREAMS:
            return Printed(_STREAMS[kind], content)
        if kind == _ASKS:
            return Asked()
        if kind in (_WHOLE, _FIRST):
            self._pieces, self._size = [], 0
        self._size += len(content)
        if self._size <= MOST_MESSAGE:
            self._pieces.append(content)
        if kind not in (_WHOLE, _LAST):
            return None
        text, size = b"".join(self._pieces), self._size
        self._pieces, self._size = [], 0
        if size > MOST_MESSAGE:
            return Failed("ResultTooLarge", f"a result of {size} bytes was left out; write it to a file")
        try:
            message: Message = _decoder.decode(text)
            return message
        except (msgspec.DecodeError, RecursionError):
            return None if text.startswith(b'{"type": "done"') else _unreadable()


def _unreadable() -> Failed:
    return Failed("ResultUnreadable", "a result was left out: it is no JSON of the kind that is expected here")
