import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.ranges import Answer, Verdict, Version, Wishes, answer

OLD = Version(size=10, tag="v1", modified=1000, dated=True)
WHOLE = Answer(Verdict.WHOLE, 0, 10)
SAME = Answer(Verdict.NOT_MODIFIED)
FAILED = Answer(Verdict.PRECONDITION_FAILED)
NONE = Answer(Verdict.NOT_SATISFIABLE)
sizes = st.integers(0, 50)


def part(first: int, length: int) -> Answer:
    return Answer(Verdict.PART, first, length)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", part(0, 1)),
        ("bytes=2-", part(2, 8)),
        ("bytes=2-99", part(2, 8)),
        ("bytes=-3", part(7, 3)),
        ("bytes=-99", part(0, 10)),
        ("BYTES= 1-2 ,", part(1, 2)),
        ("bytes=0000000000000000000000000-1", part(0, 2)),
        ("bytes=0-" + "9" * 5000, part(0, 10)),
        ("bytes=10-", NONE),
        ("bytes=" + "9" * 5000 + "-", NONE),
        ("bytes=-0", NONE),
        ("bytes=3-2", WHOLE),
        ("bytes=0-1,4-5", WHOLE),
        ("bytes=20-,30-", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=1-2x", WHOLE),
        ("bytes=\u0661-\u0662", WHOLE),
        ("lines=1-2", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range_header_means_what_the_rfc_says(header: str, expected: Answer) -> None:
    assert answer(Wishes(span=header), OLD) == expected


def test_an_empty_file_has_no_first_byte_but_its_last_bytes_are_all_of_it() -> None:
    empty = Version(0, "v1", 1000, True)
    assert answer(Wishes(span="bytes=0-"), empty) == NONE
    assert answer(Wishes(span="bytes=-5"), empty) == Answer(Verdict.WHOLE)


@given(sizes, sizes, st.none() | sizes)
def test_a_range_is_what_slicing_gives(size: int, first: int, last: int | None) -> None:
    content = bytes(range(size))
    got = answer(Wishes(span=f"bytes={first}-{'' if last is None else last}"), Version(size, "", 0, False))
    wanted = content[first:] if last is None else content[first : last + 1]
    if last is not None and last < first:
        assert got == Answer(Verdict.WHOLE, 0, size)
    else:
        assert content[got.first : got.first + got.length] == wanted
        assert (got.verdict is Verdict.NOT_SATISFIABLE) == (not wanted)


@given(sizes, st.integers(1, 60))
def test_a_suffix_is_what_slicing_gives(size: int, suffix: int) -> None:
    content = bytes(range(size))
    got = answer(Wishes(span=f"bytes=-{suffix}"), Version(size, "", 0, False))
    assert content[got.first : got.first + got.length] == content[-suffix:]


@given(st.text("bytes=-,0123456789 \t", max_size=20), sizes)
def test_whatever_is_sent_as_a_range_what_goes_out_lies_in_the_file(header: str, size: int) -> None:
    got = answer(Wishes(span=header), Version(size, "", 0, False))
    assert 0 <= got.first <= got.first + got.length <= size
    assert got.verdict in (Verdict.WHOLE, Verdict.PART, Verdict.NOT_SATISFIABLE)
    assert got.verdict is not Verdict.PART or got.length > 0


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        (Wishes(if_none_match='"v1"'), SAME),
        (Wishes(if_none_match='W/"v1"'), SAME),
        (Wishes(if_none_match='"a,b", "v1"'), SAME),
        (Wishes(if_none_match="*"), SAME),
        (Wishes(if_none_match='"v2"'), WHOLE),
        (Wishes(if_none_match="v1"), WHOLE),
        (Wishes(if_none_match='"v2"', if_modified_since=2000), WHOLE),
        (Wishes(if_modified_since=1000), SAME),
        (Wishes(if_modified_since=999), WHOLE),
        (Wishes(if_match='"v2", "v1"'), WHOLE),
        (Wishes(if_match="*"), WHOLE),
        (Wishes(if_match='W/"v1"'), FAILED),
        (Wishes(if_match='"v2"'), FAILED),
        (Wishes(if_match='"v1"', if_unmodified_since=1), WHOLE),
        (Wishes(if_match='"v2"', if_none_match='"v1"'), FAILED),
        (Wishes(if_unmodified_since=1000), WHOLE),
        (Wishes(if_unmodified_since=999), FAILED),
        (Wishes(if_none_match='"v1"', span="bytes=0-0"), SAME),
    ],
)
def test_preconditions_are_judged_in_the_order_of_the_rfc(wishes: Wishes, expected: Answer) -> None:
    assert answer(wishes, OLD) == expected


@pytest.mark.parametrize(
    ("if_range", "goes_on"),
    [('"v1"', True), ('W/"v1"', False), ('"v2"', False), ("v1", False), ("", False), (1000, True), (1001, False)],
)
def test_a_part_goes_on_only_with_the_same_content(if_range: str | int, goes_on: bool) -> None:
    assert answer(Wishes(span="bytes=4-", if_range=if_range), OLD) == (part(4, 6) if goes_on else WHOLE)


def test_a_date_that_does_not_tell_contents_apart_is_no_reason_to_go_on() -> None:
    young = Version(10, "v1", 1000, dated=False)
    assert answer(Wishes(span="bytes=4-", if_range=1000), young) == WHOLE


def test_what_has_no_entity_tag_matches_none() -> None:
    untagged = Version(10, "", 1000, dated=True)
    assert answer(Wishes(if_none_match='""'), untagged) == WHOLE
    assert answer(Wishes(span="bytes=4-", if_range='""'), untagged) == WHOLE
