"""The path of all WebSockets, ``/ws``: what is spoken there is the query's ``channel`` (sections 2.6, 3.3, 3.4)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec import Struct

from agentd import errors
from agentd.errors import InvalidRequest
from agentd.http.endpoint import Call, Endpoint
from agentd.http.socket import Socket

LONGEST = 8 << 20  # bytes of a message: what is typed at once, or a long command

Channel = Callable[[Call, Socket], Awaitable[None]]


class SocketParams(Struct):
    """channel: none is the watch of files."""

    channel: Literal["", "exec", "pty"] = ""


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
                longest_message=LONGEST,
                summary="WebSocket: commands with `channel=exec`, terminals with `channel=pty`, else file changes",
                errors=(errors.UpgradeRequired,),
            ),
        )

    async def converse(self, call: Call, socket: Socket) -> None:
        channel = self._channels.get(call.params.channel)
        if channel is None:
            raise InvalidRequest(f"there is no channel {call.params.channel!r} here")
        await channel(call, socket)
