"""The commands of ``agentd``, one module each, imported only when it is asked for.

Each has ``parser() -> argparse.ArgumentParser``, by which `completion` knows it, and
``main(arguments) -> exit status``. `STATUSES` is what an exit status means, whatever the command.
"""

import importlib
import sys
from collections.abc import Sequence

from agentd import __version__

COMMANDS = {
    "serve": "run the daemon",
    "health": "say whether the daemon answers, for a container's health check",
    "put": "upload a file, a directory or standard input",
    "get": "download a file",
    "ls": "list a directory",
    "exec": "run a command, or sit down at a terminal",
    "ps": "list the commands that run",
    "kill": "end a command, or send it a signal",
    "watch": "tell changes of files as they happen",
    "doctor": "look whether the daemon has here what it needs",
    "demo": "watch an upload survive the death of the daemon",
    "manifest": "print what runs the daemon as a service",
    "completion": "print what a shell needs to complete these commands",
    "version": "print the versions of this program and of the daemon",
}

OK, FAILED, USAGE, DEGRADED, INTERRUPTED, READER_GONE = 0, 1, 2, 3, 130, 141

STATUSES = """\
exit status:
  0    done
  1    failed; standard error says why, in one line
  2    the command line cannot be carried out as it stands
  3    doctor: it will run, but not everything works as well as it could
  78   serve: a setting cannot be used, an address is taken, or another daemon has the workspace
  130  interrupted (Ctrl-C)
  141  whoever reads standard output has left
exec ends as the command did, 128 + N where signal N ended it; but
  124  it was ended by --timeout
  125  agentd failed, not the command
  126  the command cannot be started
  127  there is no such command"""


def main(arguments: Sequence[str]) -> int:
    """Runs ``agentd COMMAND ...``."""
    command = arguments[0] if arguments else "--help"
    if command == "--version":
        print(f"agentd {__version__}")
        return 0
    if command in COMMANDS:
        status: int = importlib.import_module(f"agentd.cli.{command}").main(arguments[1:])
        return status
    if command not in ("-h", "--help"):
        print(f"agentd: there is no command {command!r}; see agentd --help", file=sys.stderr)
        return USAGE
    lines = ["usage: agentd COMMAND [-h] ...", "", *(f"  {name:10} {what}" for name, what in COMMANDS.items())]
    print("\n".join([*lines, "", STATUSES]), file=sys.stdout if arguments else sys.stderr)
    return OK if arguments else USAGE
