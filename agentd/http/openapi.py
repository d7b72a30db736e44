"""The OpenAPI 3.1 document, made from the rows that route the requests and the Structs that decode them."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from agentd import __version__
from agentd.errors import AgentError, UpgradeRequired
from agentd.http.access import SIGNATURE
from agentd.http.endpoint import FORM, Dialect, Endpoint, Failed

REF = "#/components/schemas/{name}"


def document(dialects: Sequence[Dialect]) -> dict[str, Any]:
    """The whole API of these dialects, each row once for each of its mounts."""
    rows = [(dialect, mount, row) for dialect in dialects for mount in dialect.mounts for row in dialect.endpoints]
    kinds = [kind for _, _, row in rows for kind in (row.body, row.result) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    schema_of = dict(zip(map(id, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for dialect, mount, row in rows:
        operation = _operation(dialect, mount, row, schema_of)
        there = paths.setdefault(_template(mount + row.path), {}).setdefault(row.method.lower(), operation)
        there["responses"] |= operation["responses"]  # a socket may share its path with a plain GET
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentd", "version": __version__},
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Access-Token"},
                "signed": {"type": "apiKey", "in": "query", "name": SIGNATURE},
            },
        },
    }


def _operation(dialect: Dialect, mount: str, row: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": row.summary or row.name}
    if row.result is not None:
        answer["content"] = {"application/json": {"schema": schema_of[id(row.result)]}}
    elif row.sends:
        answer["content"] = {kind: {} for kind in row.sends}
    operation: dict[str, Any] = {
        "operationId": ".".join((dialect.name, *re.findall(r"[a-z0-9]+", mount), row.name)),
        "tags": [dialect.name],
        "summary": row.summary,
        "parameters": _parameters(_template(mount + row.path), row.params),
        "responses": {str(101 if row.socket else row.status): answer, **_failures(dialect, row.errors)},
    }
    if row.signed:
        operation["security"] = [{"bearer": []}, {"header": []}, {"signed": []}]
    if row.socket:
        operation["responses"] |= _failures(dialect, [UpgradeRequired])
    if row.body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": schema_of[id(row.body)]}}}
    elif row.method in ("PUT", "POST", "PATCH") and row.takes:
        operation["requestBody"] = {"content": {kind: _content(kind) for kind in row.takes}}
    return operation


def _content(kind: str) -> dict[str, Any]:
    """Raw bytes need no schema (OpenAPI 3.1, media type object); the fields of a form are its row's own."""
    return {"schema": {"type": "object"}} if kind == FORM else {}


def _parameters(path: str, params: type[msgspec.Struct] | None) -> list[dict[str, Any]]:
    in_path = re.findall(r"\{(\w+)\}", path)
    shape = msgspec.json.schema_components([params], ref_template=REF)[1][params.__name__] if params else {}
    typed = shape.get("properties", {})
    rows = [
        {"name": name, "in": "path", "required": True, "schema": typed.get(name, {"type": "string"})}
        for name in in_path
    ]
    required = shape.get("required", ())
    query = [name for name in typed if name not in in_path]
    return rows + [{"name": name, "in": "query", "required": name in required, "schema": typed[name]} for name in query]


def _template(path: str) -> str:
    return path.replace("...}", "}")


def _status(dialect: Dialect, error: type[AgentError]) -> str:
    told = dialect.tell(Failed(error(""), "", "", "")) if dialect.tell is not None else (error.status,)
    return str(told[0])


def _failures(dialect: Dialect, errors: Sequence[type[AgentError]]) -> dict[str, Any]:
    by_status: dict[str, list[str]] = {}
    for error in errors:
        by_status.setdefault(_status(dialect, error), []).append(getattr(error, "reason", error.code))
    return {status: {"description": ", ".join(codes)} for status, codes in by_status.items()}
