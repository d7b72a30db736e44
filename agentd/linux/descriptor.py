"""One fd with an owner."""

import os
from typing import Self


class Descriptor:
    """Closed by `close`, at the end of a ``with``, or when dropped, as what a job opened for a cancelled caller is."""

    fd = -1

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        """The fd, which is the caller's to close from now on."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
