"""What a client has not taken yet."""

import asyncio
import socket

from agentd.http.flow import untaken


async def test_a_connection_that_is_closed_has_nothing_left_to_take() -> None:
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    transport.write(b"word")
    assert untaken(transport) >= 4
    transport.abort()
    await asyncio.sleep(0)
    ours.close()
    assert untaken(transport) == 0
    theirs.close()
