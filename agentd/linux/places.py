"""What a caller means by a path and a user: `Place`. Every route that takes a path begins here.

Blocking: names are looked up in the sandbox's password file.
"""

import msgspec

from agentd.core.paths import absolute
from agentd.linux.identity import Identity, Users


class Place(msgspec.Struct, frozen=True):
    """A path with those it concerns.

    path: absolute, in sandbox terms, not resolved yet. user: who was named, None for nobody. owner: whose is what is
    new here. rights: whose rights bound what is done here, beside the daemon's own.
    """

    path: str
    user: Identity | None
    owner: Identity
    rights: tuple[Identity, ...]


class Places:
    """owner: of what is new where a call names no user. workspace: absolute. cwd: where relative paths begin; None for
    the user's home, else the workspace. strict: the file system decides as the named user."""

    def __init__(self, users: Users, owner: Identity, *, workspace: str, cwd: str | None, strict: bool) -> None:
        self.owner = owner
        self._users = users
        self._workspace = workspace
        self._cwd = cwd
        self._strict = strict

    def elsewhere(self, cwd: str | None, owner: Identity) -> "Places":
        """The same, for somebody who has a directory (None: as here) and an owner of what is new to himself."""
        cwd = self._cwd if cwd is None else cwd
        return Places(self._users, owner, workspace=self._workspace, cwd=cwd, strict=self._strict)

    def user(self, name: str | None) -> Identity | None:
        """UnknownUser where the sandbox has nobody of that name or number."""
        return None if name is None else self._users.find(name)

    def find(self, path: str, user: str | None = None) -> Place:
        """The place that ``path`` means to ``user`` (a name or number, None for nobody). Raises UnknownUser."""
        identity = self.user(user)
        home = None if identity is None else identity.home
        where = absolute(path, cwd=self._cwd, home=home, workspace=self._workspace)
        rights = (identity,) if self._strict and identity is not None else ()
        return Place(where, identity, identity or self.owner, rights)
