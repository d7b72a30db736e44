"""What a pattern finds, and that none of them holds the daemon."""

import asyncio
import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import InvalidRequest, RequestTooLarge
from agentd.files import patterns
from agentd.files.patterns import LENGTH_LIMIT, compiled
from agentd.linux.steps import finish, in_steps
from agentd.linux.threads import DISK
from tests.conftest import UNIT

HOSTILE = ["(a+)+$", "(a|a)*b", "(.*)*x", "(?:a?){1000}a{1000}", "(?:(?:a{900}){900}){900}", "((a{0,99}){0,99}){0,99}b"]


def found(text: str, data: bytes, **how: bool) -> bytes | None:
    span = compiled(text, **how).search(data, 0, len(data))
    return None if span is None else data[slice(*span)]


def test_an_expression_is_one_and_what_is_none_is_a_plain_text() -> None:
    assert found("fo+", b"a foo") == b"foo"
    assert found("f(o", b"f(o") == b"f(o"
    assert found(r"\d{2}", b"1 22") == b"22"


def test_a_literal_text_is_taken_as_it_stands() -> None:
    assert found("a.c", b"abc a.c", literal=True) == b"a.c"
    assert found("A.C", b"abc a.c", literal=True, ignore_case=True) == b"a.c"


@pytest.mark.parametrize("text", ["f(o", "(?=x)", r"(a)\1", "[", "a{5000}"])
def test_what_is_no_expression_is_refused_where_one_is_asked_for(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no regular expression"):
        compiled(text, literal=False)


@pytest.mark.parametrize("text", ["", "x" * (LENGTH_LIMIT + 1)])
def test_a_pattern_has_a_length(text: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 4096"):
        compiled(text)


def test_characters_are_those_of_utf8_and_other_bytes_are_found_as_such() -> None:
    assert found("caf.$", "café".encode()) == "café".encode()
    assert found("[éè]", "è".encode()) == "è".encode()
    assert found("CAFÉ", "café".encode(), ignore_case=True) == "café".encode()
    assert found("a\udcff", b"xa\xffb", literal=True) == b"a\xff"


def test_a_match_in_a_line_goes_no_further() -> None:
    data = b"one\ntwo\n"
    assert found(r"[^x]+", data, in_line=True) == b"one"
    assert found(r"^two$", data, in_line=True) == b"two"
    assert found(r"^two$", data) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_no_expression_takes_long_or_keeps_others_waiting(text: str) -> None:
    data = b"a" * 200_000
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.monotonic()
    compiled(text).search(data, 0, len(data))
    stop.set()
    thread.join()
    assert time.monotonic() - began < 5
    assert max((b - a for a, b in itertools.pairwise(ticks)), default=0) < 1


@pytest.mark.parametrize("literal", [True, None])
def test_every_match_is_replaced_by_the_text_as_it_stands(literal: bool | None) -> None:
    assert finish(compiled("fo", literal=literal).replaced(b"fo of fo", rb"\1$0")) == (rb"\1$0 of \1$0", 2)
    assert finish(compiled("fo", literal=literal).replaced(b"none", b"x")) == (b"none", 0)


def test_empty_matches_are_replaced_between_characters_never_within() -> None:
    assert finish(compiled("x*").replaced("éxa".encode(), b"-")) == ("-é--a-".encode(), 4)


@pytest.mark.parametrize("text", ["a", "a|b"])
def test_a_text_that_grows_beyond_the_limit_is_refused_before_it_fills_the_memory(text: str) -> None:
    assert finish(compiled(text).replaced(b"a" * 10, b"xy", 20)) == (b"xy" * 10, 10)
    with pytest.raises(RequestTooLarge):
        finish(compiled(text).replaced(b"a" * (1 << 20), b"x" * (1 << 20), 1 << 22))


@given(st.text("ab", min_size=1, max_size=4), st.text("ab", max_size=40), st.integers(5, 9))
def test_a_text_is_replaced_in_pieces_as_it_is_at_once(text: str, data: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patterns, "_PIECE", piece)
        made, count = finish(compiled(text, literal=True).replaced(data.encode(), b"-"))
    assert (made.decode(), count) == (data.replace(text, "-"), data.count(text))


async def test_a_replacement_is_given_up_between_two_matches() -> None:
    steps = compiled("[a]").replaced(b"a" * (8 << 20), b"b")
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await in_steps(steps, DISK)
    assert time.monotonic() - began < UNIT


def test_a_text_is_replaced_in_many_steps_none_of_which_holds_all_threads_for_long() -> None:
    assert len(list(compiled("a").replaced(b"a" * (8 << 20), b"b"))) == 32
