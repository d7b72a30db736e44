"""The path of all WebSockets, ``/ws``: what is spoken there is the query's ``channel`` (sections 2.6, 3.3, 3.4).

A page in a browser cannot send a header with its handshake (HTML standard, section 9.3), and the token has no place in
a URL: so it asks for a ticket first, which opens one channel for as long as a handshake takes.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec import Struct

from agentd import errors
from agentd.errors import InvalidRequest, PermissionDenied
from agentd.http.endpoint import SOCKET, Call, Endpoint
from agentd.http.signing import Grant
from agentd.http.socket import Socket

TICKET_SECONDS = 10
LONGEST = 8 << 20  # bytes of a message: what is typed at once, or a long command

Channel = Callable[[Call, Socket], Awaitable[None]]


class SocketParams(Struct):
    """channel: none is the watch of files."""

    channel: Literal["", "exec", "pty"] = ""


class TicketBody(Struct):
    """channel: as in the query of the socket."""

    channel: Literal["", "exec", "pty"] = ""


class Ticket(Struct):
    """token: for the query's ``file_token`` of ``/ws``. expires_in: seconds within which the socket is to be opened."""

    token: str
    expires_in: float


class SocketRows:
    """channels: by their names in the query, what holds the conversation."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._channels = channels

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/ws", "sockets", self.converse),
                params=SocketParams,
                socket=True,
                signed=True,
                longest_message=LONGEST,
                summary="WebSocket: commands with `channel=exec`, terminals with `channel=pty`, else file changes",
                errors=(errors.UpgradeRequired,),
            ),
            Endpoint(
                *("POST", "/ws-ticket", "sockets.ticket", self.ticket),
                body=TicketBody,
                result=Ticket,
                summary="Give a token that opens a WebSocket of one channel within seconds, in place of the daemon's",
            ),
        )

    async def converse(self, call: Call, socket: Socket) -> None:
        channel = self._channels.get(call.params.channel)
        if channel is None:
            raise InvalidRequest(f"there is no channel {call.params.channel!r} here")
        if call.grant is not None and call.grant.path != call.params.channel:
            raise PermissionDenied("this ticket was given for another channel")
        await channel(call, socket)

    async def ticket(self, call: Call) -> Ticket:
        grant = Grant((SOCKET,), call.data.channel, None, time.time() + TICKET_SECONDS)
        return Ticket(call.sign(grant), TICKET_SECONDS)
