"""``agentd serve``: run the daemon, and beside it the command that follows ``--``."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from agentd import config, telemetry
from agentd.cli.omitted import omitted

USAGE = "agentd serve [FLAGS] [-- COMMAND [ARG ...]]"
ABOUT = "Run the daemon."
COMMAND = (
    "A command that follows -- is run beside the daemon, as the default user and with the daemon's standard streams. "
    "Its variables are those of every process, see processes.environment_file. HUP, QUIT, USR1, USR2 and WINCH go to "
    "it; so do TERM and INT, which also drain the daemon: it has drain_timeout then to end by itself. "
    "Exit status: 0 after a drain; 78 where a setting cannot be used, an address is taken, or another daemon has the "
    "workspace."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise config.ConfigError("flags", message)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 after a drain, or the command's with ``--end-with-command``; 78 (sysexits.h, EX_CONFIG) with one
    line for a setting that cannot be used."""
    try:
        return _serve(arguments)
    except config.ConfigError as error:
        print(f"agentd: {error}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return os.EX_CONFIG


def parser() -> argparse.ArgumentParser:
    made = _Parser(prog="agentd serve", description=ABOUT, epilog=COMMAND, usage=USAGE, allow_abbrev=False)
    made.add_argument("--config", metavar="FILE", default=os.environ.get("AGENTD_CONFIG"), help="a TOML file of keys")
    made.add_argument("--print-config", action="store_true", help="print each value and where it came from, and end")
    config.add_flags(made)
    return made


def _serve(arguments: Sequence[str]) -> int:
    own, command = _parted(arguments)
    flags = vars(parser().parse_args(own))
    file, only_print = flags.pop("config"), flags.pop("print_config")
    loaded = config.load(file, os.environ, flags)
    if only_print:
        print(loaded.text(), end="")
        return 0
    telemetry.configure()
    status: int = imported_daemon().run(loaded.config, command)
    return status


def _parted(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our own, and the command with its arguments, if there is one: an image's entry point ends with --, whether or not
    its command is empty."""
    if "--" not in arguments:
        return arguments, ()
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def imported_daemon() -> ModuleType:
    """What is imported stays for good, so the garbage collector need not look at it."""
    gc.disable()
    try:
        with omitted():
            from agentd import daemon
    finally:
        gc.enable()
    gc.freeze()
    return daemon
