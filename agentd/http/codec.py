"""Path, query and JSON to Structs, and back.

Names that are not UTF-8 travel as Python holds them, with surrogate escapes (PEP 383): ``%ff`` in a path or query
and ``"\\udcff"`` in JSON are the byte 0xff, in both directions.
"""

import functools
import json
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from agentd.errors import InvalidRequest

MAX_QUERY_FIELDS = 200


def list_fields(struct: type[msgspec.Struct] | None) -> frozenset[str]:
    """The names, as sent, of the fields that take a list."""
    if struct is None:
        return frozenset()
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return frozenset(field.encode_name for field in info.fields if _takes_list(field.type))


def _takes_list(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _takes_list(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return any(map(_takes_list, kind.types))
    return isinstance(kind, msgspec.inspect.CollectionType)


@functools.cache
def _field_names(struct: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(struct))


def decode_params(struct: type[msgspec.Struct], path: dict[str, str], query: str, lists: frozenset[str]) -> Any:
    """A Struct from the path's values and the raw query. Unknown keys of the query are ignored."""
    values: dict[str, str | list[str]] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise InvalidRequest(f"the query has more than {MAX_QUERY_FIELDS} fields") from None
    wanted = _field_names(struct)
    for name, value in pairs:
        if name in lists:
            taken = values.setdefault(name, [])
            assert isinstance(taken, list)
            taken.append(value)
        elif name in values and name in wanted:
            raise InvalidRequest(f"{name} is given more than once in the query", field=name)
        else:
            values[name] = value
    try:
        return msgspec.convert({**values, **path}, struct, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"path or query: {error}") from None
    except UnicodeEncodeError:  # a number, in bytes that are not UTF-8
        raise InvalidRequest("path or query: a number is not one") from None


def decode_json(data: bytes, struct: type[msgspec.Struct]) -> Any:
    """A Struct from a JSON object; no bytes at all stand for ``{}``."""
    try:
        try:
            return msgspec.json.decode(data or b"{}", type=struct)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # msgspec takes no lone surrogate, which is how a byte of a name that is not UTF-8 is written.
            if b"\\u" not in data:
                raise
            value = json.loads(data, parse_constant=_no_constant)
            # Other surrogates stand for no byte, and nothing could be done with them.
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
            return msgspec.convert(value, struct)
    except (ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, msgspec.MsgspecError | json.JSONDecodeError) else "it is not UTF-8"
        raise InvalidRequest(f"the JSON body: {what}") from None


def _no_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)


def encode(value: object) -> bytes:
    """JSON; where a name holds bytes that are not UTF-8, in ASCII with lone surrogate escapes."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()
