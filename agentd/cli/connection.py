"""Which daemon a command talks to, and how its failures read in a terminal."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from agentd.client import DEFAULT_URL, ApiError, Client, FileChanged, SourceChanged, SourceDiffers, SourceUnusable

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """The command line cannot be carried out as it stands."""


class CommandFailed(Exception):
    """The command did not do what it is for."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to a running daemon."""
    parser.add_argument("--url", help=f"http://HOST:PORT or unix:PATH (default: $AGENTD_URL, else {DEFAULT_URL})")
    parser.add_argument("--token-file", metavar="FILE", help="holds the bearer token (default: $AGENTD_TOKEN_FILE)")
    parser.add_argument("--user", metavar="NAME", help="act as this user of the sandbox")


def connect(args: argparse.Namespace) -> Client:
    """The daemon that the options, else the environment, name. UsageError."""
    token_file = args.token_file or os.environ.get("AGENTD_TOKEN_FILE")
    try:
        # The daemon's own file will do: one token a line, of which any is valid.
        token = Path(token_file).read_text().split()[0] if token_file else None
        return Client(args.url or os.environ.get("AGENTD_URL") or DEFAULT_URL, token=token)
    except OSError as error:
        raise UsageError(f"the token file {token_file}: {error.strerror}") from error
    except IndexError as error:
        raise UsageError(f"the token file {token_file} is empty") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def positive(text: str) -> int:
    """A number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def given(args: argparse.Namespace) -> list[str]:
    """The connection options as they were given, to be given again."""
    names = {"--url": args.url, "--token-file": args.token_file, "--user": args.user}
    return [word for name, value in names.items() if value for word in (name, value)]


def carry_out(
    command: str, work: Callable[[], None], failed: Callable[[Exception | None], None] = lambda error: None
) -> int:
    """Runs a command to its exit status. A failure is one line on stderr; then `failed` may add what helps.

    `failed` is given the failure, None for an interruption (SIGINT or SIGTERM).
    """
    signal.signal(signal.SIGTERM, _as_interruption)
    try:
        work()
    except UsageError as error:
        print(f"agentd {command}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"agentd {command}: interrupted", file=sys.stderr)
        failed(None)
        return INTERRUPTED
    except (ApiError, FileChanged, SourceChanged, SourceDiffers, SourceUnusable, CommandFailed, OSError) as error:
        print(f"agentd {command}: {_sentence(error)}", file=sys.stderr)
        failed(error)
        return FAILED
    return OK


def _as_interruption(number: int, frame: FrameType | None) -> None:
    """Ends a command as Ctrl-C does, with a resume line and without leftovers, also where SIGINT is ignored."""
    interrupt = signal.getsignal(signal.SIGINT)
    (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)


def _sentence(error: Exception) -> str:
    if isinstance(error, ApiError):
        hint = " (name the daemon's token with --token-file or AGENTD_TOKEN_FILE)" if error.status == 401 else ""
        return f"{error.detail} [{error.reason or error.code}, HTTP {error.status}]{hint}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
