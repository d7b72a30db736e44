"""Signals as calls on the loop.

Not by uvloop's add_signal_handler, which may call twice for one signal: it learns of each by a byte in a pipe and by
Python's handler, and where another signal has woken it in between (a child's end, say) it takes the two for two.
"""

import asyncio
import os
import signal
from collections.abc import Callable


def on_signal(number: int, call: Callable[..., object], *args: object) -> None:
    """From now on the signal is a call on the running loop, in place of what it was; on the main thread alone.

    Signals that come before the call is made are one, as signal(7) has it. After the loop's end SIGTERM and SIGINT end
    the process, where a thread keeps it, and others do nothing.
    """
    loop = asyncio.get_running_loop()

    def came(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)
        elif number in (signal.SIGTERM, signal.SIGINT):
            os._exit(128 + number)

    signal.signal(number, came)
    # It must interrupt no system call (signal(7)); the loop is woken by Python's handler.
    signal.siginterrupt(number, False)
