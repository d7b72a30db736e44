"""``python -m agentd``, and the entry point of the ``agentd`` command."""

import sys

from agentd.cli import main as run


def main() -> int:
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
