"""What every process finds around it: its directory and its variables, built from a clean base."""

import os
from collections.abc import Mapping

import msgspec

from agentd.linux.identity import Identity


class Surroundings(msgspec.Struct, frozen=True):
    """What the configuration says.

    cwd: where a process starts that names no directory, in sandbox terms. shell: of commands that are for one; a path.
    path, lang: PATH and LANG of the base. variables: on top of the base, beneath the request's own.
    """

    cwd: str
    shell: str
    path: str
    lang: str
    variables: Mapping[str, str]

    def environment(self, identity: Identity, top: str, *, terminal: bool) -> dict[str, str]:
        """The variables of a process of this user; nothing of the daemon's own. top: where the root's / is: the home is
        named as the process finds it, which is not confined to the root."""
        return {
            "PATH": self.path,
            "HOME": top + identity.home,
            "USER": identity.name,
            "LOGNAME": identity.name,
            "SHELL": identity.shell,
            "LANG": self.lang,
            "TERM": "xterm-256color" if terminal else "dumb",
            **self.variables,
        }


def variables_of(file: str | None) -> dict[str, str]:
    """Of lines NAME=VALUE, which are taken as they are; empty ones and those that begin with # say nothing. Blocks.

    OSError; ValueError for a line that is none of these.
    """
    if file is None:
        return {}
    with open(file, "rb") as opened:
        lines = os.fsdecode(opened.read()).split("\n")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name or "\0" in line:
            raise ValueError(f"line {number} is not NAME=VALUE")
        found[name] = value
    return found
