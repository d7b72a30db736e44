"""``python -m agentd``, and the entry point of the ``agentd`` command."""

import os
import signal
import sys

from agentd.cli import INTERRUPTED
from agentd.cli import main as run


def main() -> int:
    # Until the command has taken Ctrl-C over, it ends it at once: there is nothing yet to be tidied up.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
