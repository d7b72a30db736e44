import errno
import os
from pathlib import Path

import pytest

from agentd.errors import (
    AgentError,
    Conflict,
    InvalidPath,
    NoSpace,
    NotFound,
    PermissionDenied,
    ReadOnlyFileSystem,
    RequestTooLarge,
    StorageFailed,
    Unavailable,
)
from agentd.linux.oserrors import os_errors, translate


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOENT, NotFound),
        (errno.EPERM, PermissionDenied),
        (errno.ENAMETOOLONG, InvalidPath),
        (errno.EROFS, ReadOnlyFileSystem),
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EFBIG, RequestTooLarge),
        (errno.EIO, StorageFailed),
        (errno.ESTALE, Conflict),
        (errno.ENOTEMPTY, Conflict),
        (errno.EMFILE, Unavailable),
    ],
)
def test_errno_becomes_an_error_that_names_the_path_and_what_to_do(code: int, kind: type[AgentError]) -> None:
    error = translate(OSError(code, "text"), "open", "/workspace/x")
    assert type(error) is kind
    assert error.detail.startswith("cannot open '/workspace/x': ")
    assert "; " in error.detail
    assert error.facts == {"path": "/workspace/x"}


def test_table_of_the_operation_goes_before_the_common_one(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="gone"), os_errors("read", "/x", {errno.ENOENT: (Conflict, "gone; look again")}):
        os.stat(tmp_path / "absent")


def test_errno_without_a_meaning_stays_a_fault() -> None:
    with pytest.raises(OSError, match="strange"), os_errors("read", "/x"):
        raise OSError(errno.EBADMSG, "strange")
