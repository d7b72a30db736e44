"""``agentd health``: whether the daemon beside it answers. A container's health check runs it every few seconds, so it
imports next to nothing."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from agentd.cli.parser import Parser

DEFAULT_ADDRESS = "127.0.0.1:8811"
SECONDS = 4
REQUEST = "GET /livez HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="agentd health", description="Ends with 0 if the daemon's loop turns (GET /livez), else with 1.")
    asked = (
        "HOST:PORT, http://HOST:PORT or unix:PATH "
        f"(default: $AGENTD_URL, else the first one of $AGENTD_LISTEN, else {DEFAULT_ADDRESS})"
    )
    made.add_argument("address", metavar="ADDRESS", nargs="?", help=asked)
    return made


def main(arguments: Sequence[str]) -> int:
    listened = os.environ.get("AGENTD_LISTEN", "").replace(",", " ").split()
    known = (
        (parser().parse_args(arguments).address, ""),
        (os.environ.get("AGENTD_URL"), " (AGENTD_URL)"),
        (next(iter(listened), None), " (AGENTD_LISTEN)"),
    )
    address, origin = next(((one, origin) for one, origin in known if one), (DEFAULT_ADDRESS, " (the default)"))
    try:
        told = answer(address)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
    if told == "200":
        return 0
    print(f"agentd health: {address}{origin}: {told}", file=sys.stderr)
    return 1


def answer(address: str) -> str:
    """The status of the answer, as text. OSError, ValueError."""
    with _connected(address) as connection, connection.makefile("rb") as stream:
        host = "localhost" if address.startswith("unix:") else address.rpartition("://")[2].partition("/")[0]
        connection.sendall(REQUEST.format(host).encode())
        return b" ".join(stream.readline().split()[1:2]).decode("ascii", "replace")


def _connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(address.removeprefix("unix:"))
        return connection
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.partition("/")[0].rpartition(":")
    if scheme not in ("", "http") or not port.isdecimal():
        raise ValueError("it is neither HOST:PORT nor http://HOST:PORT nor unix:PATH")
    # A connection to the wildcard address is one to this machine (ip(7)).
    return socket.create_connection((host.strip("[]"), int(port)), SECONDS)
