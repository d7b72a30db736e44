"""The commands of ``agentd``, one module each, imported only when it is asked for."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "serve": "run the daemon",
    "put": "upload a file, a directory or standard input",
    "get": "download a file",
    "demo": "watch an upload survive the death of the daemon",
}


def main(arguments: Sequence[str]) -> int:
    """Runs ``agentd COMMAND ...``; each command's module has ``main(arguments) -> exit status``."""
    command = arguments[0] if arguments else "--help"
    if command in COMMANDS:
        status: int = importlib.import_module(f"agentd.cli.{command}").main(arguments[1:])
        return status
    asked = command in ("-h", "--help")
    lines = ["usage: agentd COMMAND [-h] ...", "", *(f"  {name:10} {what}" for name, what in COMMANDS.items())]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
