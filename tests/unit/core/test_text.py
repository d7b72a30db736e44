"""A character that is cut off is found, and nothing else is held back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.text import whole


@given(st.text(), st.integers(0, 100))
def test_text_that_is_cut_anywhere_is_whole_in_its_pieces(text: str, at: int) -> None:
    content = text.encode()
    length = whole(content[:at])
    assert content[:length].decode() + content[length:].decode() == text
    assert min(at, len(content)) - length < 4


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_what_was_said_of_any_bytes_stays_true_when_more_come(content: bytes, more: bytes) -> None:
    length = whole(content)
    said = content[:length].decode(errors="replace")
    assert (content + more).decode(errors="replace").startswith(said)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff", b"\x80\x80\x80\x80", b"\xf5", "é".encode(), "€😀".encode()])
def test_what_is_whole_or_can_become_nothing_is_not_held_back(content: bytes) -> None:
    assert whole(content) == len(content)
