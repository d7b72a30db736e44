"""A file system that never answers (FUSE): who asks it sleeps in the kernel, and not even SIGKILL wakes it."""

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_INIT = 26
_FORCE_DETACH = 3


@contextmanager
def deaf(place: Path) -> Iterator[threading.Event]:
    """Mounted there meanwhile; the event is set once somebody waits for it. Skips where that cannot be done."""
    with ExitStack() as closing:
        try:
            device = closing.enter_context(open("/dev/fuse", "r+b", 0))
        except OSError:
            pytest.skip("no FUSE here")
        libc, asked = ctypes.CDLL(None), threading.Event()
        options = f"fd={device.fileno()},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"deaf", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
            pytest.skip("no right to mount")
        serving = threading.Thread(target=_serve, args=(device.fileno(), asked))
        serving.start()
        closing.callback(serving.join)
        closing.callback(libc.umount2, os.fsencode(place), _FORCE_DETACH)
        yield asked


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
