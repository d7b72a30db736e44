"""A file system that never answers (FUSE): who asks it sleeps in the kernel, and not even SIGKILL wakes it."""

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_INIT = 26
_FORCE_DETACH = 3


@contextmanager
def deaf(place: Path) -> Iterator[threading.Event]:
    """Mounted there meanwhile; the event is set once somebody waits for it. Skips the test where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    with suppress(OSError), open("/dev/fuse", "r+b", 0) as device:
        options = f"fd={device.fileno()},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"deaf", os.fsencode(place), b"fuse", 0, options.encode()) == 0:
            asked = threading.Event()
            serving = threading.Thread(target=_serve, args=(device.fileno(), asked))
            serving.start()
            try:
                yield asked
            finally:
                libc.umount2(os.fsencode(place), _FORCE_DETACH)
                serving.join()
            return
    pytest.skip("no FUSE here, or no right to mount")


def _serve(device: int, asked: threading.Event) -> None:
    """Takes all requests and answers the first one alone (linux/fuse.h)."""
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:  # it is no longer mounted
            return
        _, kind, number = struct.unpack_from("=IIQ", request)
        if kind == _INIT:
            answer = struct.pack("=IIIIHHIIHHI7I", 7, 31, 65536, 0, 12, 10, 65536, 1, 0, 0, 0, *[0] * 7)
            os.write(device, struct.pack("=IiQ", 16 + len(answer), 0, number) + answer)
        else:
            asked.set()
