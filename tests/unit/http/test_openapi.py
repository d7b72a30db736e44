"""What the API says about rows that are more than JSON in and out."""

from typing import Any

from msgspec import Struct

from agentd.http.endpoint import FORM, RAW, Call, Dialect, Endpoint
from agentd.http.events import NDJSON, SSE
from agentd.http.openapi import document


class Reply(Struct):
    n: int


async def nothing(_: Call) -> object:
    return None


def operation(*rows: Endpoint, method: str = "get") -> Any:
    return document([Dialect("test", ("/v1",), rows)])["paths"]["/v1/x"][method]


def test_a_stream_names_its_media_types() -> None:
    found = operation(Endpoint("GET", "/x", "x", nothing, sends=(SSE, NDJSON)))
    assert found["responses"]["200"]["content"] == {SSE: {}, NDJSON: {}}


def test_a_body_is_raw_bytes_a_form_or_either_or_not_there() -> None:
    def body(*takes: str) -> Any:
        return operation(Endpoint("POST", "/x", "x", nothing, takes=takes), method="post").get("requestBody")

    assert body(RAW) == {"content": {RAW: {}}}
    assert body(FORM, RAW) == {"content": {FORM: {"schema": {"type": "object"}}, RAW: {}}}
    assert body() is None


def test_a_socket_is_101_and_shares_its_path_with_a_plain_get() -> None:
    plain = Endpoint("GET", "/x", "x", nothing, result=Reply)
    socket = Endpoint("GET", "/x", "ws", nothing, socket=True, summary="Events")
    assert set(operation(socket)["responses"]) == {"101", "426"}
    for rows in ((plain, socket), (socket, plain)):
        assert set(operation(*rows)["responses"]) == {"101", "200", "426"}


def test_a_signed_row_says_so() -> None:
    assert {"signed": []} in operation(Endpoint("GET", "/x", "x", nothing, signed=True))["security"]
    assert "security" not in operation(Endpoint("GET", "/x", "x", nothing))
