"""The languages of code contexts: which program interprets each, and how code is handed to it."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agentd.errors import InvalidRequest, NotSupported
from agentd.linux.memory import memory_file
from agentd.processes.packets import EVENTS, SOURCE

_FOLDER = Path(__file__).with_name("interpreters")


class Language(msgspec.Struct, frozen=True):
    """programs: the first that the sandbox has is taken. arguments: its. source: the file of `interpreters` that it
    executes; "" for a shell, which reads commands on its standard input and the code on SOURCE."""

    name: str
    programs: tuple[str, ...]
    arguments: tuple[str, ...]
    source: str = ""

    @property
    def is_shell(self) -> bool:
        return not self.source

    def open_source(self) -> int:
        """The fd that the interpreter gets as SOURCE. Blocks. NotSupported, OSError."""
        if self.is_shell:
            fd = memory_file("code")
            os.fchmod(fd, 0o444)
            return fd
        return os.open(_FOLDER / self.source, os.O_RDONLY | os.O_CLOEXEC)


_PYTHON = Language(
    *("python", ("python3", "python")),
    arguments=("-c", f"exec(compile(open({SOURCE}, 'rb').read(), '<agentd>', 'exec'))"),
    source="python.py",
)
_NODE = Language(
    *("javascript", ("node", "nodejs")),
    arguments=("-e", f"eval(require('fs').readFileSync({SOURCE}, 'utf8'))"),
    source="node.js",
)
LANGUAGES: Mapping[str, Language] = {
    **dict.fromkeys(("python", "python3", "py"), _PYTHON),
    **dict.fromkeys(("javascript", "js", "node"), _NODE),
    "bash": Language("bash", ("bash",), ("-s",)),
    **dict.fromkeys(("sh", "shell"), Language("sh", ("sh",), ("-s",))),
}
DEFAULT = "python"

# After an interrupt the rest of the code is left out, as far as the shell allows.
SHELL_START = f"trap 'return 130' INT; printf 'S{{\"type\":\"ready\"}}' >&{EVENTS}\n".encode()


def language(name: str | None) -> Language:
    """The language that a client means; None is the default. NotSupported."""
    found = LANGUAGES.get((name or DEFAULT).strip().lower())
    if found is None:
        known = ", ".join(sorted({one.name for one in LANGUAGES.values()}))
        raise NotSupported(f"code in {name!r} cannot be executed here; take one of {known}, or a program of your own")
    return found


def _has_bytes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def request(spoken: Language, code: str, number: int, envs: Mapping[str, str], token: int) -> bytes:
    """What is written to the interpreter to have ``code`` executed; a shell finds the code itself on SOURCE."""
    for name, value in envs.items():
        if not (name.isascii() and name.isidentifier()) or "\0" in value or not _has_bytes(value):
            what = "names are letters, digits and _, and values UTF-8 without NUL"
            raise InvalidRequest(f"the variable {name[:80]!r} cannot be set: {what}")
    if spoken.is_shell and not _has_bytes(code):
        raise InvalidRequest("the code has characters that no file has; send UTF-8")
    if not spoken.is_shell:
        text = json.dumps({"code": code, "number": number, "envs": dict(envs), "token": token})
        return text.encode("ascii") + b"\n"
    variables = "".join(f"{name}={shlex.quote(value)} " for name, value in envs.items())
    run = f"{variables}command . /proc/self/fd/{SOURCE} </dev/null {EVENTS}>&-"
    done = f'printf \'S{{"type":"done","token":{token},"status":%d}}\' "$?" >&{EVENTS}'
    return os.fsencode(f"{run}; {done}\n")
