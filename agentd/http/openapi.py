"""The OpenAPI 3.1 document, made from the rows that route the requests and the Structs that decode them.

A row's answers are those that it names and, once for all rows of an API, those of the server: what is refused before a
row is asked, and what fails behind it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agentd import __version__
from agentd.errors import (
    AgentError,
    HeaderTooLarge,
    Internal,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UpgradeRequired,
)
from agentd.http.access import SIGNATURE
from agentd.http.endpoint import FORM, Dialect, Endpoint, Failed
from agentd.http.problem import CONTENT_TYPE, Problem

SCHEMA = "#/components/schemas/{name}"
RESPONSE = "#/components/responses/{name}"
JSON = "application/json"

_SERVER = (
    *(InvalidRequest, Unauthorized, PermissionDenied, RequestTimeout, RequestTooLarge, UnsupportedMediaType),
    *(RateLimited, HeaderTooLarge, Internal, Unavailable),
)
_SECONDS = {"type": "string", "pattern": "^[0-9]+$", "description": "seconds"}
_COUNT = {"type": "string", "pattern": "^[0-9]+$"}
# Those of an answer with that status: whether they are always there, and what they are.
_HEADERS: dict[str, dict[str, tuple[bool, dict[str, str]]]] = {
    "401": {"WWW-Authenticate": (True, {"type": "string"})},
    "429": {
        "Retry-After": (True, _SECONDS),
        "X-RateLimit-Limit": (False, _COUNT),
        "X-RateLimit-Remaining": (True, _COUNT),
        "X-RateLimit-Reset": (True, _SECONDS),
    },
}

Row = tuple[Dialect, str, Endpoint]


def document(dialects: Sequence[Dialect], url: str = "/") -> dict[str, Any]:
    """The whole API of these dialects, each row once for each of its mounts. url: that the mounts are below."""
    rows = [(dialect, mount, row) for dialect in dialects for mount, row in dialect.rows]
    schemas = _Schemas(rows, dialects)
    paths: dict[str, dict[str, Any]] = {}
    for dialect, mount, row in rows:
        operation = _operation(dialect, mount, row, schemas)
        there = paths.setdefault(_template(mount + row.path), {}).setdefault(row.method.lower(), operation)
        there["responses"] |= operation["responses"]  # a socket may share its path with a plain GET
    responses = {
        f"{dialect.name}.{status}": _failure(dialect, status, errors, schemas)
        for dialect in dialects
        for status, errors in _by_status(dialect, _SERVER).items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentd", "version": __version__},
        "servers": [{"url": url}],
        "security": [{"bearer": []}, {"header": []}],
        "tags": [{"name": name} for name in dict.fromkeys(dialect.name for dialect in dialects)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": responses,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Access-Token"},
                "signed": {"type": "apiKey", "in": "query", "name": SIGNATURE},
            },
        },
    }


class _Schemas:
    """Of all Structs that the rows name. components: those that others refer to, by name."""

    def __init__(self, rows: Iterable[Row], dialects: Iterable[Dialect]) -> None:
        params = {id(row.params): row.params for _, _, row in rows if row.params is not None}
        kinds = {id(kind): kind for _, _, row in rows for kind in _kinds(row)}
        kinds |= {id(kind): kind for kind in map(_failure_of, dialects)}
        found, self.components = msgspec.json.schema_components(
            [*kinds.values(), *params.values()], ref_template=SCHEMA
        )
        self._of = dict(zip([*kinds, *params], found, strict=True))
        names = {key: self._of[key]["$ref"].removeprefix(SCHEMA.format(name="")) for key in params}
        self._params = {key: self.components[name] for key, name in names.items()}
        for name in {*names.values()} - {self._name(kind) for kind in kinds}:
            del self.components[name]

    def _name(self, key: int) -> str:
        return str(self._of[key].get("$ref", "")).removeprefix(SCHEMA.format(name=""))

    def of(self, kind: Any) -> Any:
        return self._of[id(kind)]

    def params(self, struct: type[msgspec.Struct] | None) -> tuple[dict[str, Any], Sequence[str]]:
        """The schemas of its fields by name, and the names of those that are required."""
        shape = self._params[id(struct)] if struct is not None else {}
        return shape.get("properties", {}), shape.get("required", ())


def _kinds(row: Endpoint) -> Iterable[Any]:
    kinds = (row.body, row.form, row.result, *(kind for _, kind in row.also))
    return (kind for kind in kinds if kind is not None and not isinstance(kind, str))


def _failure_of(dialect: Dialect) -> type[msgspec.Struct]:
    return dialect.failure or Problem


def _operation(dialect: Dialect, mount: str, row: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": ".".join((dialect.name, *re.findall(r"[a-z0-9]+", mount), row.name)),
        "tags": [dialect.name],
        "summary": row.summary,
        "parameters": _parameters(_template(mount + row.path), row, schemas),
        "responses": _responses(dialect, row, schemas),
    }
    if row.public:
        operation["security"] = []
    if row.signed:
        operation["security"] = [{"bearer": []}, {"header": []}, {"signed": []}]
    if content := _body(row, schemas):
        operation["requestBody"] = {"content": content, "required": _needs_body(row)}
    return operation


def _body(row: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    """Raw bytes need no schema (OpenAPI 3.1, media type object)."""
    if row.body is not None:
        example = {} if row.example is None else {"example": row.example}
        return {JSON: {"schema": schemas.of(row.body), **example}}
    if row.method not in ("PUT", "POST", "PATCH"):
        return {}
    form = {"schema": {"type": "object"} if row.form is None else schemas.of(row.form)}
    return {kind: form if kind == FORM else {} for kind in row.takes}


def _needs_body(row: Endpoint) -> bool:
    """Without one, JSON is an empty object, and raw bytes are none."""
    if row.body is not None:
        return any(field.required for field in msgspec.structs.fields(row.body))
    return row.takes == (FORM,)


def _responses(dialect: Dialect, row: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    """By status; where one has several results, each is possible."""
    found = _failures(dialect, row, schemas)
    answers: list[tuple[int, Any]] = [(row.status, row.result), *((row.status, kind) for kind in row.sends)]
    for status, kind in [(101, None)] if row.socket else [*answers, *row.also]:
        response = found.setdefault(str(status), {"description": row.summary})
        if kind is not None:
            content = response.setdefault("content", {})
            media, schema = (kind, {}) if isinstance(kind, str) else (JSON, {"schema": schemas.of(kind)})
            if media in content:
                schema = {"schema": {"anyOf": [content[media]["schema"], schema["schema"]]}}
            content[media] = schema
    return found


def _failures(dialect: Dialect, row: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    """Those of the server alone by reference, once for all rows; those without content have none to refer to."""
    own = (*row.errors, *dialect.errors, *((UpgradeRequired,) if row.socket else ()))
    statuses = _by_status(dialect, own)
    found: dict[str, Any] = {}
    for status, errors in _by_status(dialect, (*own, *_SERVER)).items():
        if status in statuses or row.method == "HEAD":
            found[status] = _failure(dialect, status, errors, schemas)
            if row.method == "HEAD":
                del found[status]["content"]
        else:
            found[status] = {"$ref": RESPONSE.format(name=f"{dialect.name}.{status}")}
    return found


def _failure(dialect: Dialect, status: str, errors: Sequence[type[AgentError]], schemas: _Schemas) -> dict[str, Any]:
    plain = dialect.render is None and dialect.tell is None
    codes = dict.fromkeys(getattr(error, "reason", error.code) for error in errors)
    response: dict[str, Any] = {
        "description": ", ".join(codes),
        "content": {CONTENT_TYPE if plain else JSON: {"schema": schemas.of(_failure_of(dialect))}},
    }
    if headers := _HEADERS.get(status):
        response["headers"] = {
            name: {"required": required, "schema": schema} for name, (required, schema) in headers.items()
        }
    return response


def _by_status(dialect: Dialect, errors: Iterable[type[AgentError]]) -> dict[str, list[type[AgentError]]]:
    found: dict[str, list[type[AgentError]]] = {}
    for error in errors:
        found.setdefault(_status(dialect, error), []).append(error)
    return found


def _status(dialect: Dialect, error: type[AgentError]) -> str:
    told = dialect.tell(Failed(error(""), "", "", "")) if dialect.tell is not None else (error.status,)
    return str(told[0])


def _parameters(path: str, row: Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    """Of the path, the query and the headers. A segment of a path is never empty."""
    in_path = re.findall(r"\{(\w+)\}", path)
    typed, required = schemas.params(row.params)
    segments = [
        {"name": name, "in": "path", "required": True, "schema": _segment(typed.get(name, {"type": "string"}))}
        for name in in_path
    ]
    query = [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in typed.items()
        if name not in in_path
    ]
    headers = [
        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in row.headers.items()
    ]
    return [*segments, *query, *headers]


def _segment(schema: dict[str, Any]) -> dict[str, Any]:
    shape = {key: value for key, value in schema.items() if key != "default"}
    return {"minLength": 1, **shape} if shape.get("type") == "string" else shape


def _template(path: str) -> str:
    return path.replace("...}", "}")
