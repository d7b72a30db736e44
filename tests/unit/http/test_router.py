"""Paths that end in any number of segments."""

from typing import Any

import pytest
from msgspec import Struct

from agentd.http.endpoint import Call, Dialect, Endpoint
from agentd.http.openapi import document
from agentd.http.router import Router
from tests.unit.http.conftest import OpenDoor


class Params(Struct):
    owner: str
    path: str


async def show(call: Call) -> Any:
    return call.params


async def nothing(_: Call) -> None:
    return None


REST = Endpoint("GET", "/{owner}/files/{path...}", "rest", show, params=Params)
LITERAL = Endpoint("GET", "/{owner}/files/all", "all", show)
MADE = Endpoint("POST", "/{owner}/files", "made", nothing, status=201)
ROWS = Dialect("rows", ("/rows",), (REST, LITERAL, MADE))


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("a", "a"),
        ("a/b/c", "a/b/c"),
        ("a%2Fb/%ff", "a/b/\udcff"),
        ("a//b/", "a//b/"),
        ("/a", "/a"),
        ("all/of/it", "all/of/it"),
        ("../a", "../a"),
    ],
)
def test_the_rest_of_a_path_is_one_value(path: str, rest: str) -> None:
    found = Router((ROWS,)).find(f"/rows/me/files/{path}")
    assert (found.routes["GET"].endpoint, found.values) == (REST, ("me", rest))
    assert found.routes["GET"].names == ("owner", "path")


@pytest.mark.parametrize("path", ["/rows/me/files/", "/rows/me/files//", "/rows/me/other/a"])
def test_there_has_to_be_a_rest(path: str) -> None:
    assert not Router((ROWS,)).find(path).routes


def test_a_literal_segment_comes_before_the_rest() -> None:
    assert Router((ROWS,)).find("/rows/me/files/all").routes["GET"].endpoint is LITERAL


def test_two_rows_with_one_rest_are_refused() -> None:
    other = Endpoint("GET", "/{other}/files/{name...}", "other", show)
    with pytest.raises(ValueError, match="two rows"):
        Router((ROWS, Dialect("others", ("/rows",), (other,))))


def test_the_description_has_the_rest_as_a_parameter() -> None:
    row = document([ROWS])["paths"]["/rows/{owner}/files/{path}"]["get"]
    assert [(one["name"], one["in"]) for one in row["parameters"]] == [("owner", "path"), ("path", "path")]


async def test_a_row_without_a_result_answers_with_its_own_status(open_door: OpenDoor) -> None:
    peer = await (await open_door(MADE)).connect()
    await peer.send("POST /me/files")
    status, headers, body = await peer.answer()
    assert (status, headers["content-length"], body) == (201, "0", b"")
