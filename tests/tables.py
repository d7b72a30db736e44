"""The tables of `tests.asking`, by dialect, and the mount that each is asked at."""

from tests import asking, asking_daytona, asking_lives, asking_plain
from tests.uploading import IDENT, MACHINE

TABLES: dict[str, asking.Table] = {
    "nullspace": {**asking.ASKS, **asking_lives.MACHINES},
    "daytona": {**asking_daytona.ASKS, **asking_lives.CONTEXTS},
    "duvo": asking_plain.DUVO,
    "blackbox": asking_plain.BLACKBOX,
    "conway": asking_plain.CONWAY,
}
PREFIXES = {"nullspace": MACHINE, "daytona": asking_daytona.PREFIX, **asking_plain.PREFIXES}
# A daemon that serves all of it: the rows of stand-alone mode, and by the id of the prefixes the machine itself.
ALONE = ("--standalone", "--sandbox-id", IDENT)
