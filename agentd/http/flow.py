"""How an answer's bytes flow off: one that the client does not take is ended, and one that breaks off looks broken."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from agentd.errors import RequestTimeout

NO_LINGER = struct.pack("ii", 1, 0)  # struct linger, socket(7)


@asynccontextmanager
async def taking(transport: asyncio.Transport, seconds: float, written: Callable[[], int]) -> AsyncIterator[None]:
    """Ends what runs inside by RequestTimeout once the client has taken none of the bytes that are on their way to it
    for ``seconds`` (twice as many at most). Nothing on its way is nothing to take, however long that lasts.

    written(): bytes handed to the transport so far, or any number that stays where nothing but small change is.
    """
    loop = asyncio.get_running_loop()
    most = written() - untaken(transport)
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal most, timer
        left = untaken(transport)
        if transport.is_closing() or (left and written() - left <= most):
            limit.reschedule(loop.time())
        else:
            most = max(most, written() - left)
            timer = loop.call_later(seconds, look)

    timer = loop.call_later(seconds, look)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise RequestTimeout(f"the client took nothing of its answer for {seconds:g} s") from None
    finally:
        timer.cancel()


def cut(transport: asyncio.Transport) -> None:
    """Resets the connection (RST): by its end alone an answer without a length would look whole."""
    with suppress(OSError, AttributeError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


def untaken(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the client has not taken, as far as the kernel tells."""
    size = transport.get_write_buffer_size()
    # Not every kernel tells, nor has every transport a socket, nor one that was closed an fd (ValueError).
    with suppress(OSError, AttributeError, ValueError):
        opened = transport.get_extra_info("socket").fileno()
        size += int.from_bytes(fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)), "little")  # tcp(7), SIOCOUTQ
    return size
