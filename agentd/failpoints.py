"""Named places at which a test can make the daemon die, fail or stop.

``AGENTD_FAILPOINT="NAME=ACTION[:N]"`` arms one of them for its N-th passage (1 unless told). Actions: ``exit`` ends
the process with SIGKILL, ``error`` raises ``OSError(EIO)``, ``pause`` stops the process with SIGSTOP until somebody
sends SIGCONT. Off unless the variable is set; an unknown name or action is refused at start.
"""

import errno
import os
import signal

VARIABLE = "AGENTD_FAILPOINT"

FAILPOINTS = (
    "create.after_mkdir",
    "create.after_header",
    "create.after_rename",
    "create.before_ack",
    "part.after_first_write",
    "part.after_last_write",
    "part.after_digest",
    "sync.before_data",
    "sync.after_data",
    "sync.after_journal",
    "sync.before_ack",
    "complete.after_seal",
    "complete.after_hash",
    "complete.after_unpack",
    "complete.after_copy",
    "complete.after_chown",
    "complete.after_intent",
    "complete.after_rename",
    "complete.after_published",
    "complete.mid_cleanup",
    "merge.after_entry",
    "abort.after_record",
    "abort.mid_unlink",
    "recover.after_scan",
    "recover.after_redo",
    "recover.mid_cleanup",
    "sweep.after_record",
    "sweep.after_rename",
    "write.after_body",
    "write.before_rename",
    "move.before_rename",
    "move.after_entry",
    "move.before_delete",
)
ACTIONS = ("exit", "error", "pause")

_armed: str | None = None
_action = ""
_left = 0


def arm(setting: str | None) -> None:
    """Arms what ``setting`` says (``None``: nothing). Raises ValueError for a name or an action that does not exist."""
    global _armed, _action, _left
    if not setting:
        _armed = None
        return
    name, _, action = setting.partition("=")
    action, _, count = action.partition(":")
    if name not in FAILPOINTS or action not in ACTIONS or not (count or "1").isdecimal():
        raise ValueError(f"{setting!r} is not NAME=ACTION[:N] with a known name and one of {ACTIONS}")
    _armed, _action, _left = name, action, int(count or "1")


def hit(name: str) -> None:
    """Passes the place ``name``: returns at once unless it is armed."""
    global _left
    if name != _armed:
        return
    _left -= 1
    if _left != 0:
        return
    if _action == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _action == "pause":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise OSError(errno.EIO, f"failpoint {name}")
