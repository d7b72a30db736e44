import stat

import pytest

from agentd.core.conflict import ConflictMode, Existing, Kind, Method, decide
from agentd.errors import TargetConflict

FILE, TREE = Kind.FILE, Kind.DIRECTORY_TAR
MERGE, REPLACE, ERROR = ConflictMode.MERGE, ConflictMode.REPLACE, ConflictMode.ERROR


@pytest.mark.parametrize(
    ("kind", "mode", "existing", "method"),
    [
        (FILE, MERGE, Existing.FILE, Method.RENAME),
        (FILE, REPLACE, Existing.FILE, Method.RENAME),
        (FILE, MERGE, Existing.NOTHING, Method.RENAME),
        (FILE, ERROR, Existing.NOTHING, Method.CREATE),
        (TREE, MERGE, Existing.NOTHING, Method.CREATE),
        (TREE, MERGE, Existing.DIRECTORY, Method.MERGE),
        (TREE, REPLACE, Existing.DIRECTORY, Method.EXCHANGE),
        (TREE, ERROR, Existing.NOTHING, Method.CREATE),
    ],
)
def test_the_mode_says_how_it_is_published(kind: Kind, mode: ConflictMode, existing: Existing, method: Method) -> None:
    assert decide(kind, mode, existing, "/t") is method


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("existing", [Existing.FILE, Existing.DIRECTORY, Existing.OTHER])
def test_error_needs_a_free_target(kind: Kind, existing: Existing) -> None:
    with pytest.raises(TargetConflict, match="/t"):
        decide(kind, ERROR, existing, "/t")


@pytest.mark.parametrize("mode", ConflictMode)
@pytest.mark.parametrize(
    ("kind", "existing"),
    [(FILE, Existing.DIRECTORY), (TREE, Existing.FILE), (FILE, Existing.OTHER), (TREE, Existing.OTHER)],
)
def test_kinds_never_replace_each_other(kind: Kind, mode: ConflictMode, existing: Existing) -> None:
    with pytest.raises(TargetConflict):
        decide(kind, mode, existing, "/t")


def test_what_stands_there_is_told_by_its_mode() -> None:
    modes = [None, stat.S_IFREG, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFLNK]
    found = [Existing.of(mode) for mode in modes]
    assert found == [Existing.NOTHING, Existing.FILE, Existing.DIRECTORY, *[Existing.OTHER] * 3]
