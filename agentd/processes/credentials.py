"""What lets one git command in somewhere, and no other: credentials that are never on a command line, in the
environment, on a disk, in git's configuration or in a log.

They are in memory files (memfd_create(2)) of the user's own, 0400, which the command gets as file descriptors. Git asks
a credential helper, which reads one of them, and only for the site that the command is about; ssh reads its key from
/proc/PID/fd of git, whose pid the shell between them knows. Other users can open neither; what runs as the same user
while the command does (its hooks, for one) could, as it could read that user's memory.
"""

import os
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from agentd.core import gitformat
from agentd.errors import InvalidRequest
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity
from agentd.linux.memory import memory_file

_SECRET, _ASKPASS, _PASSPHRASE = 3, 4, 5
# Nothing of git's outlives the command with what was lent in its hands (git-maintenance(1)).
_ALONE = ("-c", "gc.auto=0", "-c", "maintenance.auto=false")
_HELPER = f'!f() {{ test "$1" != get || cat /proc/self/fd/{_SECRET}; }}; f'
# ssh closes all fds but three (closefrom(3)), hence the way by git's.
_SSH = (
    f"exec ssh -i /proc/$PPID/fd/{_SECRET} -o IdentitiesOnly=yes -o IdentityAgent=none"
    " -o PreferredAuthentications=publickey -o StrictHostKeyChecking=accept-new"
    " -o ControlMaster=no -o ControlPath=none"
)
_ASKED = f"SSH_ASKPASS=/proc/$PPID/fd/{_ASKPASS} AGENTD_PASSPHRASE=/proc/$PPID/fd/{_PASSPHRASE} "
_ANSWER = b'#!/bin/sh\nexec cat "$AGENTD_PASSPHRASE"\n'


class _Untold(msgspec.Struct, frozen=True):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # whatever logs it tells no secret


class Password(_Untold, frozen=True):
    """For http and https."""

    username: str
    password: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be told. A token may stand in either place."""
        plain = (self.username, self.password)
        return (*plain, *(quote(text, safe="", errors="surrogateescape") for text in plain))


class SshKey(_Untold, frozen=True):
    """A private key as ssh-keygen(1) writes it."""

    key: str
    passphrase: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.key, self.key.strip(), *([self.passphrase] if self.passphrase else []))


Credentials = Password | SshKey


def check(credentials: Credentials) -> None:
    """InvalidRequest for what could not be handed over as it is."""
    match credentials:
        case Password(username, password):
            if not _is_plain(username + password):
                raise InvalidRequest("the username or the password has control characters in it")
        case SshKey(key, passphrase):
            if "PRIVATE KEY-----" not in key or not key.isascii() or "\0" in key:
                raise InvalidRequest("private_key is no private key: it begins with -----BEGIN ... PRIVATE KEY-----")
            if not _is_plain(passphrase or ""):
                raise InvalidRequest("the passphrase has control characters in it")


def _is_plain(text: str) -> bool:
    """One line of UTF-8, or of other bytes as surrogateescape has them."""
    return not any(ord(character) < 32 or 0xD800 <= ord(character) < 0xDC80 for character in text)


class Lent(msgspec.Struct, frozen=True):
    """What one command gets: options of git, variables, and what is open, by number in the child."""

    options: tuple[str, ...]
    variables: Mapping[str, str]
    open: Mapping[int, Descriptor]


NOTHING = Lent((), {}, {})


def lend(credentials: Credentials | None, url: str, user: Identity) -> Lent:
    """For a command of ``user`` that talks to ``url``. Blocks. InvalidRequest where the credentials are of another kind
    than the URL needs."""
    match credentials:
        case None:
            return NOTHING
        case Password(username, password):
            site = gitformat.site(url)
            if site is None:
                raise InvalidRequest("auth of the kind https is for http(s) URLs, which this remote has not")
            # The empty one makes git forget the user's own helpers, which might write down what they see.
            options = (*_ALONE, "-c", "credential.helper=", "-c", f"credential.{site}.helper={_HELPER}")
            contents = {_SECRET: os.fsencode(f"username={username}\npassword={password}\n")}
            return Lent(options, {}, _memory(contents, user))
        case SshKey(key, passphrase):
            if not gitformat.is_ssh(url):
                raise InvalidRequest("auth of the kind ssh is for ssh URLs, which this remote has not")
            contents = {_SECRET: os.fsencode(key.replace("\r\n", "\n").strip("\n") + "\n")}
            command = f"{_SSH} -o BatchMode=yes"
            variables = {"GIT_SSH_VARIANT": "ssh"}
            if passphrase:
                contents |= {_ASKPASS: _ANSWER, _PASSPHRASE: os.fsencode(passphrase + "\n")}
                command = _ASKED + _SSH
                variables |= {"SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
            return Lent(_ALONE, {**variables, "GIT_SSH_COMMAND": command}, _memory(contents, user))


def _memory(contents: Mapping[int, bytes], user: Identity) -> dict[int, Descriptor]:
    """Memory files that only ``user`` may open, read-only; the script among them also to be executed."""
    made: dict[int, Descriptor] = {}
    for number, content in contents.items():
        with open(memory_file("lent"), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o500 if number == _ASKPASS else 0o400)
            if user.uid != os.geteuid():
                os.fchown(file.fileno(), user.uid, user.gid)
            # Nobody may have what is executed open for writing (execve(2), ETXTBSY).
            made[number] = Descriptor(os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC))
    return made
