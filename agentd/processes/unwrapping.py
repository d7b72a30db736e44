"""A clone into a directory that holds the daemon's own tree, which is therefore never empty.

Git clones beside that tree, and what it made is moved up. A repository that has something of that tree's name cannot
write it there: git is told to leave the name out (git-sparse-checkout(1)), for good. All of this blocks.
"""

import os
import stat

import msgspec

from agentd.errors import Conflict, NotADirectory, PathReserved
from agentd.linux import trees
from agentd.linux.oserrors import os_errors
from agentd.linux.places import Place
from agentd.linux.root import Opened, Root
from agentd.linux.settling import rename_new
from agentd.linux.workspace import RESERVED

# What makes git neither write that name nor look at what has it.
LEAVE_OUT = (
    ("sparse-checkout", "set", "--no-cone", "/*", f"!/{RESERVED}/"),
    ("config", "sparse.expectFilesOutsideOfPatterns", "true"),
)


class Target(msgspec.Struct, frozen=True):
    """path: of the clone, resolved. directory: where git is started, and ``name`` what it makes there."""

    path: str
    directory: str
    name: str
    holds_reserved: bool


def find_target(root: Root, place: Place) -> Target:
    """Where a clone to ``place`` goes; missing directories above it are made. Conflict where it is not empty."""
    with root.locate(place.path, make_parents=place.owner, rights=place.rights) as location:
        directory, _, name = location.path.rpartition("/")
        usual = Target(location.path, directory or "/", name, holds_reserved=False)
        if location.stat is None:
            return usual
        if not stat.S_ISDIR(location.stat.st_mode):
            raise NotADirectory(f"cannot clone to {location.path!r}: something is there already", path=location.path)
    with _opened(root, place) as found:
        _check_empty(found, but=())
        if not root.contains_reserved(found.fd):
            return usual
        return Target(found.path, found.path, "", holds_reserved=True)


def unwrap(root: Root, place: Place, name: str) -> None:
    """Moves what is in the directory ``name`` up to ``place``."""
    with _opened(root, place) as target, os_errors("clone to", place.path):
        _check_empty(target, but=(name,))
        clone = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target.fd)
        try:
            names = sorted(os.listdir(clone), key=lambda entry: entry == ".git")
            if RESERVED in names:
                raise PathReserved(f"the repository has {RESERVED!r} in it, which is the daemon's; clone it elsewhere")
            for entry in names:
                rename_new(clone, entry, target.fd, entry)
        finally:
            os.close(clone)
        os.rmdir(name, dir_fd=target.fd)


def discard(root: Root, place: Place, name: str) -> None:
    """Removes what is left of a clone that failed."""
    with _opened(root, place) as target:
        trees.remove(target.fd, name)


def _opened(root: Root, place: Place) -> Opened:
    return root.open(place.path, os.O_RDONLY | os.O_DIRECTORY, rights=place.rights)


def _check_empty(found: Opened, but: tuple[str, ...]) -> None:
    if {*os.listdir(found.fd)} - {RESERVED, *but}:
        raise Conflict(f"cannot clone to {found.path!r}: the directory is not empty; choose another", path=found.path)
