import pytest

from agentd.core.states import TRANSITIONS, UploadState, check_transition, refusal
from agentd.errors import UploadAborted, UploadAlreadyCompleted, UploadExpired, UploadFailed

S = UploadState


@pytest.mark.parametrize("old", S)
@pytest.mark.parametrize("new", S)
def test_only_the_ways_of_the_table_are_open(old: UploadState, new: UploadState) -> None:
    if new in TRANSITIONS[old]:
        assert check_transition(old, new) is new
    else:
        with pytest.raises(AssertionError):
            check_transition(old, new)


def test_from_every_state_an_end_can_be_reached() -> None:
    for state in S:
        reached, new = set[UploadState](), {state}
        while new:
            reached |= new
            new = {target for source in new for target in TRANSITIONS[source]} - reached
        assert any(target.ended for target in reached), state


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (S.COMPLETED, UploadAlreadyCompleted),
        (S.ABORTED, UploadAborted),
        (S.EXPIRED, UploadExpired),
        (S.FAILED, UploadFailed),
    ],
)
def test_an_upload_that_is_over_says_why(state: UploadState, error: type[Exception]) -> None:
    assert isinstance(refusal(state), error)


@pytest.mark.parametrize("state", [S.CREATED, S.UPLOADING, S.STAGED, S.COMPLETING])
def test_an_open_upload_refuses_nothing(state: UploadState) -> None:
    assert refusal(state) is None
