"""What comes from an interpreter, whoever sent it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agentd.core.eventlog import Stream
from agentd.processes import packets
from agentd.processes.packets import Done, Failed, Packets, Printed, Shown

RESULT = b'{"type": "result", "text": "x", "is_main_result": true}'


def test_output_is_of_its_stream() -> None:
    assert Packets().read(b"o\xff") == Printed(Stream.STDOUT, b"\xff")
    assert Packets().read(b"e") == Printed(Stream.STDERR, b"")


def test_a_message_may_come_in_pieces_with_output_between() -> None:
    read = Packets().read
    found = [read(b"B" + RESULT[:9]), read(b"oout"), read(b"C" + RESULT[9:20]), read(b"M" + RESULT[20:])]
    assert found == [None, Printed(Stream.STDOUT, b"out"), None, Shown(text="x", is_main_result=True)]


def test_a_message_that_begins_ends_the_one_before() -> None:
    read = Packets().read
    assert (read(b"B{"), read(b'S{"type": "done", "token": 7}')) == (None, Done(7))
    assert read(b"M" + RESULT) == Shown(text="x", is_main_result=True)


def test_a_message_without_end_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MOST_MESSAGE", 100)
    read = Packets().read
    for _ in range(10):
        assert read(b"C" + b"x" * 60) is None
    answer = read(b"M")
    assert isinstance(answer, Failed)
    assert (answer.name, "600 bytes" in answer.value) == ("ResultTooLarge", True)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'{"type": "other"}', b'{"type": "result", "text": 3}', b"[" * 100_000, b"\xff"]
)
def test_a_message_that_makes_no_sense_is_told_and_nothing_more(text: bytes) -> None:
    found = Packets().read(b"S" + text)
    assert isinstance(found, Failed)
    assert found.name == "ResultUnreadable"


@given(some.lists(some.binary(min_size=1, max_size=40) | some.sampled_from([b"S" + RESULT, b"B" + RESULT[:5]])))
def test_nothing_that_can_be_sent_raises(sent: list[bytes]) -> None:
    read: Any = Packets().read
    for packet in sent:
        read(packet)
