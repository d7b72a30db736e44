"""The tables of `tests.asking`, by dialect, and the mount that each is asked at."""

from tests import asking, asking_daytona, asking_plain
from tests.uploading import MACHINE

TABLES: dict[str, asking.Table] = {
    "nullspace": asking.ASKS,
    "daytona": asking_daytona.ASKS,
    "duvo": asking_plain.DUVO,
    "blackbox": asking_plain.BLACKBOX,
    "conway": asking_plain.CONWAY,
}
PREFIXES = {"nullspace": MACHINE, "daytona": asking_daytona.PREFIX, **asking_plain.PREFIXES}
