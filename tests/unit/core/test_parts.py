import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.parts import Digests, Offer, PartTable, part_size_for
from agentd.errors import PartConflict, PartOutOfRange, PartSizeMismatch

A, B = Digests(b"a" * 16, b"a" * 32), Digests(b"b" * 16, b"b" * 32)
sizes = st.integers(0, 500)
part_sizes = st.integers(1, 60)


@given(sizes, part_sizes)
def test_spans_cover_every_byte_once_and_in_order(size: int, part_size: int) -> None:
    table = PartTable(size, part_size)
    position = 0
    for number in range(table.count):
        span = table.span(number)
        assert span.offset == position
        assert 0 < span.length <= part_size
        position += span.length
    assert position == size


@given(sizes, part_sizes, st.lists(st.integers(0, 40)))
def test_accepted_and_missing_parts_make_up_the_whole(size: int, part_size: int, numbers: list[int]) -> None:
    table = PartTable(size, part_size)
    for number in numbers:
        if number < table.count:
            table.accept(number, A)
    missing = {number for first, last in table.missing(1000) for number in range(first, last + 1)}
    assert missing == set(range(table.count)) - set(numbers)
    assert table.next_part == min(missing, default=None)
    assert table.accepted_bytes == sum(table.span(number).length for number in table.accepted)


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 30), st.integers(1, 10_000))
def test_no_upload_has_more_parts_than_allowed(size: int, wanted: int, max_parts: int) -> None:
    chosen = part_size_for(size, wanted, max_parts)
    assert chosen >= wanted
    assert PartTable(size, chosen).count <= max_parts
    assert chosen == wanted or chosen % (1 << 20) == 0


def test_an_empty_upload_has_no_parts() -> None:
    table = PartTable(0, 8)
    assert (table.count, table.next_part, table.missing()) == (0, None, [])
    with pytest.raises(PartOutOfRange):
        table.span(0)


@pytest.mark.parametrize("number", [-1, 3, 1 << 70])
def test_a_number_outside_of_the_table_is_refused(number: int) -> None:
    with pytest.raises(PartOutOfRange):
        PartTable(20, 8).offer(number, 8, None)


@pytest.mark.parametrize(("number", "length"), [(0, 7), (0, 9), (2, 8), (2, 0)])
def test_a_part_has_exactly_its_length(number: int, length: int) -> None:
    with pytest.raises(PartSizeMismatch):
        PartTable(20, 8).offer(number, length, None)


def test_what_is_not_there_is_written() -> None:
    assert PartTable(20, 8).offer(1, 8, A.sha256) is Offer.WRITE
    assert PartTable(20, 8).offer(1, None, None) is Offer.WRITE


def test_the_same_digest_is_answered_without_reading() -> None:
    table = PartTable(20, 8)
    table.accept(1, A)
    assert table.offer(1, 8, A.sha256) is Offer.STORED


def test_another_digest_is_a_conflict() -> None:
    table = PartTable(20, 8)
    table.accept(1, A)
    with pytest.raises(PartConflict):
        table.offer(1, 8, B.sha256)


@pytest.mark.parametrize(("stored", "declared"), [(A, None), (Digests(A.xxh3, None), A.sha256)])
def test_without_two_digests_the_bytes_are_compared(stored: Digests, declared: bytes | None) -> None:
    table = PartTable(20, 8)
    table.accept(1, stored)
    assert table.offer(1, 8, declared) is Offer.COMPARE
    table.same(1, A)
    with pytest.raises(PartConflict):
        table.same(1, B)


def test_the_list_of_missing_ranges_is_bounded() -> None:
    table = PartTable(1000, 1)
    for number in range(0, 1000, 2):
        table.accept(number, A)
    assert table.missing(3) == [(1, 1), (3, 3), (5, 5)]
