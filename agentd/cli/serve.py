"""``agentd serve``: run the daemon, and beside it the command that follows ``--``."""

import argparse
import gc
import os
import ssl
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from agentd import config, telemetry

USAGE = "agentd serve [FLAGS] [-- COMMAND [ARG ...]]"
ABOUT = "Run the daemon."
COMMAND = (
    "A command that follows -- is run beside the daemon, as the default user and with the daemon's standard streams. "
    "Its variables are those of every process, see processes.environment_file. HUP, QUIT, USR1, USR2 and WINCH go to "
    "it; so do TERM and INT, which also drain the daemon: it has drain_timeout then to end by itself."
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


def _serve(arguments: Sequence[str]) -> int:
    own, command = _parted(arguments)
    parser = _Parser(prog="agentd serve", description=ABOUT, epilog=COMMAND, usage=USAGE, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", default=os.environ.get("AGENTD_CONFIG"), help="a TOML file of keys")
    parser.add_argument("--print-config", action="store_true", help="print each value and where it came from, and end")
    config.add_flags(parser)
    flags = vars(parser.parse_args(own))
    file, only_print = flags.pop("config"), flags.pop("print_config")
    loaded = config.load(file, os.environ, flags)
    if only_print:
        print(loaded.text(), end="")
        return 0
    telemetry.configure()
    status: int = _imported_daemon().run(loaded.config, command)
    return status


def _parted(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our own, and the command with its arguments, if there is one."""
    if "--" not in arguments:
        return arguments, ()
    at = arguments.index("--")
    if at + 1 == len(arguments):
        raise config.ConfigError("command", "nothing follows --; name a program, or leave -- out")
    return arguments[:at], arguments[at + 1 :]


def _imported_daemon() -> ModuleType:
    """Nearly half of the import is aiohttp's client reading the machine's CA certificates, which a server never uses;
    and what is imported stays for good, so the garbage collector need not look at it."""
    gc.disable()
    kept = ssl.SSLContext.load_default_certs, ssl.SSLContext.set_default_verify_paths
    ssl.SSLContext.load_default_certs = ssl.SSLContext.set_default_verify_paths = lambda *_: None  # type: ignore
    try:
        from agentd import daemon
    finally:
        ssl.SSLContext.load_default_certs, ssl.SSLContext.set_default_verify_paths = kept  # type: ignore
        gc.enable()
    gc.freeze()
    return daemon
