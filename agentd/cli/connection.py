"""Which daemon a command talks to, and how its failures read in a terminal."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from agentd.cli import FAILED as FAILED
from agentd.cli import INTERRUPTED, READER_GONE, USAGE
from agentd.cli import OK as OK
from agentd.cli.showing import harmless
from agentd.client import (
    DEFAULT_URL,
    ApiError,
    Client,
    CommandLost,
    FileChanged,
    SourceChanged,
    SourceDiffers,
    SourceUnusable,
    Unreachable,
)

# How often a request is repeated by those commands that somebody waits for.
FEW = 2

_HINTS = {
    401: "name the daemon's token with --token-file or AGENTD_TOKEN_FILE",
    429: "repeat it later",
    503: "repeat it later",
}


class UsageError(Exception):
    """The command line cannot be carried out as it stands."""


class CommandFailed(Exception):
    """The command did not do what it is for."""


def add_options(parser: argparse.ArgumentParser, *, user: bool = True) -> None:
    """The options of every command that talks to a running daemon. user: of one that acts as somebody."""
    parser.add_argument("--url", help=f"http://HOST:PORT or unix:PATH (default: $AGENTD_URL, else {DEFAULT_URL})")
    parser.add_argument("--token-file", metavar="FILE", help="holds the bearer token (default: $AGENTD_TOKEN_FILE)")
    if user:
        parser.add_argument("--user", metavar="NAME", help="act as this user of the sandbox")


def add_json(parser: argparse.ArgumentParser, what: str = "an object") -> None:
    parser.add_argument("--json", action="store_true", help=f"print JSON: {what}")


def connect(args: argparse.Namespace, retries: int = 5) -> Client:
    """The daemon that the options, else the environment, name. UsageError."""
    token_file = args.token_file or os.environ.get("AGENTD_TOKEN_FILE")
    try:
        # The daemon's own file will do: one token a line, of which any is valid.
        token = Path(token_file).read_text().split()[0] if token_file else None
        return Client(args.url or os.environ.get("AGENTD_URL") or DEFAULT_URL, token=token, retries=retries)
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


def seconds(text: str) -> float:
    """A time above 0, for argparse."""
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError(text)
    return number


def given(args: argparse.Namespace) -> list[str]:
    """The connection options as they were given, to be given again."""
    names = {"--url": args.url, "--token-file": args.token_file, "--user": args.user}
    return [word for name, value in names.items() if value for word in (name, value)]


def carry_out(
    command: str,
    work: Callable[[], int | None],
    failed: Callable[[Exception | None], None] = lambda error: None,
    status_of: Callable[[Exception], int] = lambda error: FAILED,
) -> int:
    """Runs a command to its exit status, which is what `work` returns, None for `OK`.

    A failure is one line on stderr; then `failed`, which is given the failure, None for an interruption (SIGINT or
    SIGTERM), may add what helps, and `status_of` says how it ends. Where the reader of standard output has left, that
    is no news to anybody.
    """
    if callable(signal.getsignal(signal.SIGINT)):  # which it is not where it is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _as_interruption)
    try:
        status = work()
        sys.stdout.flush()
    except UsageError as error:
        _say(f"agentd {command}: {error}")
        return USAGE
    except KeyboardInterrupt:
        _say(f"agentd {command}: interrupted")
        failed(None)
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (
        *(ApiError, CommandFailed, CommandLost, FileChanged),
        *(SourceChanged, SourceDiffers, SourceUnusable, OSError),
    ) as error:
        _say(f"agentd {command}: {sentence(error)}")
        failed(error)
        return status_of(error)
    return status or OK


def sentence(error: Exception) -> str:
    """What happened, and what helps."""
    if isinstance(error, ApiError):
        hint = _HINTS.get(error.status)
        if error.status == 401 and "AGENTD_TOKEN" in os.environ and not os.environ.get("AGENTD_TOKEN_FILE"):
            hint = f"{hint}; AGENTD_TOKEN is not read"
        told = f"{error.detail} [{error.reason or error.code}, HTTP {error.status}]"
        return told if hint is None else f"{told} ({hint})"
    if isinstance(error, Unreachable):
        return f"{error} (does `agentd serve` run there? name another with --url or AGENTD_URL)"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _as_interruption(number: int, frame: FrameType | None) -> None:
    """Ends a command as Ctrl-C does, with a resume line and without leftovers, also where SIGINT is ignored."""
    interrupt = signal.getsignal(signal.SIGINT)
    (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)


def _say(text: str) -> None:
    """A path in it may hold anything."""
    print("\n".join(map(harmless, text.split("\n"))), file=sys.stderr)
