"""No value of any field of any row makes the daemon fail: each is taken, or refused as the caller's fault."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from msgspec import inspect

from agentd.http.endpoint import Endpoint
from tests.asking import Caller
from tests.conftest import Answer, Daemon
from tests.docs import dialects
from tests.tables import ALONE, PREFIXES

pytestmark = pytest.mark.exhaustive

ROWS = [
    (row.mounts[0] if row.mounts else PREFIXES[one.name], row)
    for one in dialects()
    if one.name in PREFIXES
    for row in one.endpoints
    if not row.socket
]

TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\udcff",
    "\ud800",
    "/",
    ".",
    "..",
    "x" * 300,
    "/" + "x/" * 3000,
    "\n",
    "-",
    "%",
    "🦆",
    "(",
    "[",
    "1e999",
]
NUMBERS = [0, -1, 1, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, 1e308, -1e308, 1e-320, 0.5]
OTHERS = [None, True, [], {}, [[]], [None], {"a": None}, [""], ["\0"], {"": ""}, {"a=b": "\0"}, {"a": "\udcff"}]
# What a request is made of where it is not the field that is tried.
PLAIN = {
    "command": "true",
    "timeout_secs": 1,
    "url": "/nowhere",
    "permissions": "0644",
    "kind": "file",
    "source_kind": "spooled_stream",
    "content_length": 0,
    "grace_secs": 0,
    "language": "bash",
    "signal": "TERM",
}


def _plain(field: inspect.Field) -> Any:
    if field.encode_name in PLAIN:
        return PLAIN[field.encode_name]
    match field.type:
        case inspect.ListType():
            return ["absent"]
        case inspect.IntType() | inspect.FloatType():
            return 1
        case inspect.Metadata(type=inspect.IntType() | inspect.FloatType()):
            return 1
        case inspect.BoolType():
            return False
    return "absent"


def _fields(struct: type[msgspec.Struct] | None) -> list[inspect.Field]:
    if struct is None:
        return []
    found = inspect.type_info(struct)
    assert isinstance(found, inspect.StructType)
    return list(found.fields)


def _text(value: Any) -> str:
    try:
        return quote(str(value), safe="", errors="surrogateescape")
    except UnicodeEncodeError:  # which no query can hold
        return "-"


def _send(caller: Caller, row: Endpoint, params: dict[str, Any], body: Any) -> Answer:
    path = re.sub(r"{(\w+)(\.\.\.)?}", lambda name: _text(params.get(name[1], "")) or "-", row.path)
    query = "&".join(f"{name}={_text(value)}" for name, value in params.items() if f"{{{name}}}" not in row.path)
    content = (b"x" if row.method in ("PUT", "POST") else None) if row.body is None else json.dumps(body).encode()
    headers = {} if row.body is None else {"Content-Type": "application/json"}
    lines = 1 if row.name == "files.watch" else 0
    return caller.request(row.method, f"{caller.prefix}{path}?{query}", content, headers, lines=lines)


def _tries(row: Endpoint) -> Iterator[tuple[dict[str, Any], Any]]:
    """Parameters and body with one value after another in one field after another."""
    params = {one.encode_name: _plain(one) for one in _fields(row.params) if one.required}
    body = {one.encode_name: _plain(one) for one in _fields(row.body) if one.required}
    for field in _fields(row.params):
        for value in (*TEXTS, *NUMBERS):
            yield {**params, field.encode_name: value}, body
    for field in _fields(row.body):
        for value in (*TEXTS, *NUMBERS, *OTHERS):
            yield params, {**body, field.encode_name: value}
    if row.body is not None:
        yield from ((params, value) for value in (*TEXTS, *NUMBERS, *OTHERS))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("values")
    (place / "root").mkdir()
    made = Daemon(place / "root", place / "stderr", ("--processes-grace", "0.1", *ALONE), {})
    yield made
    assert made.term() == 0


@pytest.mark.parametrize(("prefix", "row"), ROWS, ids=lambda one: getattr(one, "name", ""))
def test_no_value_makes_a_row_fail(daemon: Daemon, prefix: str, row: Endpoint) -> None:
    caller = Caller(daemon, prefix)
    failed = []
    for params, body in _tries(row):
        answer = _send(caller, row, params, body)
        if answer.status == 500:
            failed.append((params, body, answer.json()["error"]))
    caller.close()
    assert failed == []
