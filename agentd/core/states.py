"""The states of an upload and the ways between them (wire contract, section 1.4)."""

from enum import Enum

from agentd.errors import UploadAborted, UploadAlreadyCompleted, UploadError, UploadExpired, UploadFailed


class UploadState(Enum):
    CREATED = "created"
    UPLOADING = "uploading"
    STAGED = "staged"
    COMPLETING = "completing"
    COMPLETED = "completed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing can happen to the upload any more, and nothing of it is staged."""
        return not TRANSITIONS[self]


_S = UploadState
_ENDS = frozenset({_S.ABORTED, _S.EXPIRED, _S.FAILED})
TRANSITIONS: dict[UploadState, frozenset[UploadState]] = {
    _S.CREATED: frozenset({_S.UPLOADING, _S.STAGED}) | _ENDS,
    _S.UPLOADING: frozenset({_S.STAGED}) | _ENDS,
    _S.STAGED: frozenset({_S.COMPLETING}) | _ENDS,
    _S.COMPLETING: frozenset({_S.STAGED, _S.COMPLETED}) | _ENDS,
    _S.COMPLETED: frozenset(),
    _S.ABORTED: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.FAILED: frozenset({_S.ABORTED, _S.EXPIRED}),
}


def check_transition(old: UploadState, new: UploadState) -> UploadState:
    """``new``, if the table allows it; a step that it does not allow is a fault of ours, not of the caller."""
    if new not in TRANSITIONS[old]:
        raise AssertionError(f"an upload cannot go from {old.value} to {new.value}")
    return new


def refusal(state: UploadState, failure: str = "") -> UploadError | UploadFailed | None:
    """Why an upload in this state takes neither parts nor complete nor abort; None where it is open."""
    match state:
        case UploadState.COMPLETED:
            return UploadAlreadyCompleted("the upload is completed: its target is published")
        case UploadState.ABORTED:
            return UploadAborted("the upload was aborted: create a new one")
        case UploadState.EXPIRED:
            return UploadExpired("the upload expired: create a new one")
        case UploadState.FAILED:
            return UploadFailed(f"the upload failed and cannot go on ({failure}): create a new one", failure=failure)
        case _:
            return None
