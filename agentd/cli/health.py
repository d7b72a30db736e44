"""``agentd health``: whether the daemon beside it answers. A container's health check runs it every few seconds, so it
imports next to nothing."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

DEFAULT_ADDRESS = "127.0.0.1:8811"
SECONDS = 4
REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="agentd health", description="Ends with 0 if the daemon's loop turns (GET /livez), else with 1."
    )
    asked = f"HOST:PORT or unix:PATH (default: the first one of $AGENTD_LISTEN, else {DEFAULT_ADDRESS})"
    made.add_argument("address", metavar="ADDRESS", nargs="?", help=asked)
    return made


def main(arguments: Sequence[str]) -> int:
    listened = os.environ.get("AGENTD_LISTEN", "").replace(",", " ").split()
    address = parser().parse_args(arguments).address or next(iter(listened), DEFAULT_ADDRESS)
    try:
        told = answer(address)
    except (OSError, ValueError) as error:
        told = str(error)
    if told == "200":
        return 0
    print(f"agentd health: {address}: {told}", file=sys.stderr)
    return 1


def answer(address: str) -> str:
    """The status of the answer, as text. OSError, ValueError."""
    with _connected(address) as connection, connection.makefile("rb") as stream:
        connection.sendall(REQUEST)
        return b" ".join(stream.readline().split()[1:2]).decode("ascii", "replace")


def _connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    # A connection to the wildcard address is one to this machine (ip(7)).
    return socket.create_connection((host.strip("[]"), int(port)), SECONDS)
