"""What the API says about rows that are more than JSON in and out."""

from typing import Any

import msgspec
import pytest
from msgspec import Struct

from agentd import errors
from agentd.dialects.choice import with_root
from agentd.http.endpoint import FORM, RAW, Call, Dialect, Endpoint, Failed, FileField
from agentd.http.events import NDJSON, SSE
from agentd.http.openapi import document
from tests.docs import dialects


class Reply(Struct):
    n: int


class Other(Struct):
    m: str = ""


class Optional(Struct):
    n: int = 1


class Fields(Struct):
    file: FileField


class Params(Struct):
    n: int
    name: str = ""
    path: str = ""


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

    assert body(RAW) == {"content": {RAW: {}}, "required": False}
    assert body(FORM, RAW) == {"content": {FORM: {"schema": {"type": "object"}}, RAW: {}}, "required": False}
    assert body(FORM)["required"]
    assert body() is None


def test_a_body_is_required_where_an_empty_object_would_not_do() -> None:
    def needed(body: type[Struct]) -> bool:
        found = operation(Endpoint("POST", "/x", "x", nothing, body=body, example={"n": 1}), method="post")
        assert found["requestBody"]["content"]["application/json"]["example"] == {"n": 1}
        return bool(found["requestBody"]["required"])

    assert (needed(Reply), needed(Optional)) == (True, False)


def test_the_fields_of_a_form_and_the_headers_of_a_request_are_told() -> None:
    row = Endpoint("POST", "/x", "x", nothing, takes=(FORM,), form=Fields, headers={"X-Key": "what for"})
    found = operation(row, method="post")
    assert found["requestBody"]["content"] == {FORM: {"schema": {"$ref": "#/components/schemas/Fields"}}}
    assert found["parameters"] == [
        {"name": "X-Key", "in": "header", "description": "what for", "schema": {"type": "string"}}
    ]


def test_every_answer_that_a_row_may_give_is_told_with_its_status() -> None:
    also = ((202, Other), (200, Other), (206, RAW), (304, None))
    found = operation(Endpoint("GET", "/x", "x", nothing, result=Reply, sends=(RAW,), also=also))["responses"]
    either = [{"$ref": f"#/components/schemas/{name}"} for name in ("Reply", "Other")]
    assert found["200"]["content"] == {"application/json": {"schema": {"anyOf": either}}, RAW: {}}
    assert found["202"]["content"] == {"application/json": {"schema": either[1]}}
    assert found["206"]["content"] == {RAW: {}}
    assert "content" not in found["304"]


def test_what_the_server_itself_answers_is_told_once_for_all_rows() -> None:
    row = Endpoint("GET", "/x", "x", nothing, errors=(errors.NotFound, errors.InvalidPath))
    told = document([Dialect("test", ("/v1",), (row,))])
    found = told["paths"]["/v1/x"]["get"]["responses"]
    assert found["429"] == {"$ref": "#/components/responses/test.429"}
    assert set(told["components"]["responses"]["test.429"]["headers"]) >= {"Retry-After", "X-RateLimit-Reset"}
    assert found["400"]["description"] == "invalid_path, invalid_request"
    assert set(found["404"]["content"]) == {"application/problem+json"}


def test_an_api_has_its_own_error_body_and_statuses() -> None:
    def tell(failed: Failed) -> tuple[int, dict[str, Any]]:
        return 418, {}

    row = Endpoint("GET", "/x", "x", nothing)
    told = document([Dialect("test", ("",), (row,), tell=tell, errors=(errors.NotFound,), failure=Other)])
    assert set(told["paths"]["/x"]["get"]["responses"]) == {"200", "418"}
    described = told["components"]["responses"]["test.418"]["content"]
    assert described == {"application/json": {"schema": {"$ref": "#/components/schemas/Other"}}}


def test_an_answer_to_head_has_no_content() -> None:
    found = operation(Endpoint("HEAD", "/x", "x", nothing, errors=(errors.NotFound,)), method="head")["responses"]
    assert [status for status, response in found.items() if "content" in response or "$ref" in response] == []


def test_a_segment_is_never_empty_and_its_name_may_be_a_field_of_the_params() -> None:
    row = Endpoint("GET", "/x/{name}/{n}", "x", nothing, params=Params)
    name, number, path = document([Dialect("test", ("",), (row,))])["paths"]["/x/{name}/{n}"]["get"]["parameters"]
    assert name["schema"] == {"type": "string", "minLength": 1}
    assert number["schema"] == {"type": "integer"}
    assert (path["in"], path["required"]) == ("query", False)


@pytest.mark.parametrize("root", [None, *(one.name for one in dialects() if one.name != "agentd")])
def test_every_operation_has_a_name_of_its_own_and_a_summary(root: str | None) -> None:
    (own,) = (one for one in dialects() if one.name == "agentd")
    others = [one for one in dialects() if one.name != "agentd"]
    told = document([own, *with_root(others, own, root)])
    operations = [one for path in told["paths"].values() for one in path.values()]
    names = [one["operationId"] for one in operations]
    assert len({*names}) == len(names)
    assert all(one["summary"] for one in operations)


def test_every_example_is_taken() -> None:
    rows = [row for one in dialects() for row in one.endpoints if row.example is not None]
    assert rows
    for row in rows:
        assert row.body is not None
        assert isinstance(msgspec.convert(row.example, row.body), row.body)


def test_a_socket_is_101_and_shares_its_path_with_a_plain_get() -> None:
    plain = Endpoint("GET", "/x", "x", nothing, result=Reply)
    socket = Endpoint("GET", "/x", "ws", nothing, socket=True, summary="Events")
    assert {"101", "426"} <= set(operation(socket)["responses"])
    assert "200" not in operation(socket)["responses"]
    for rows in ((plain, socket), (socket, plain)):
        assert {"101", "200", "426"} <= set(operation(*rows)["responses"])


def test_a_signed_row_says_so() -> None:
    assert {"signed": []} in operation(Endpoint("GET", "/x", "x", nothing, signed=True))["security"]
    assert "security" not in operation(Endpoint("GET", "/x", "x", nothing))
    assert operation(Endpoint("GET", "/x", "x", nothing, public=True))["security"] == []
