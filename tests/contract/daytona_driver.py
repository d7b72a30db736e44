"""One generated Daytona toolbox client in a process of its own, which needs nothing of this project.

A line of JSON comes in for every call and one goes out. In: ``host``, ``token``, ``api`` (the client's class),
``method``, ``positional``, ``named``; a request body is ``{"model": NAME, "values": {...}}``, bytes are
``{"latin1": TEXT}``.
Out: ``result`` (the reply's model as a dict, bytes as Latin-1 text), ``status`` of the answer; or ``error``: the class
that the caller would have caught, its status, its code and the model that the client made of the body.
The first line that goes out has the client's ``version`` and its ``methods`` by class.
"""

import json
import sys
from typing import Any

import daytona_toolbox_api_client as toolbox
from pydantic import BaseModel

_clients: dict[tuple[str, str], Any] = {}


def client(host: str, token: str) -> Any:
    if (host, token) not in _clients:
        made = toolbox.ApiClient(toolbox.Configuration(host=host))
        made.set_default_header("Authorization", f"Bearer {token}")
        _clients[host, token] = made
    return _clients[host, token]


def value(given: Any) -> Any:
    match given:
        case {"model": name, "values": values}:
            return getattr(toolbox, name).from_dict(values)
        case {"latin1": text}:
            return text.encode("latin-1")
    return given


def plain(found: Any) -> Any:
    if isinstance(found, BaseModel):
        return found.to_dict()
    if isinstance(found, bytes | bytearray):
        return bytes(found).decode("latin-1")
    if isinstance(found, list):
        return [plain(one) for one in found]
    return found


def call(host: str, token: str, api: str, method: str, positional: list[Any], named: dict[str, Any]) -> Any:
    found = getattr(getattr(toolbox, api)(client(host, token)), f"{method}_with_http_info")
    answer = found(*map(value, positional), **{name: value(given) for name, given in named.items()})
    return {"result": plain(answer.data), "status": answer.status_code}


def methods() -> dict[str, list[str]]:
    """Those that make a request, by class."""
    suffix = "_with_http_info"
    classes = {name: getattr(toolbox, name) for name in dir(toolbox) if name.endswith("Api")}
    return {
        name: [one.removesuffix(suffix) for one in dir(made) if one.endswith(suffix)] for name, made in classes.items()
    }


def main() -> None:
    print(json.dumps({"version": toolbox.__version__, "methods": methods()}), flush=True)
    for line in sys.stdin:
        try:
            answer = call(**json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever the caller would see is the answer
            data = plain(getattr(error, "data", None))
            kind = type(error).__name__
            code = data.get("code") if isinstance(data, dict) else None
            status = getattr(error, "status", None)
            answer = {"error": {"kind": kind, "status": status, "code": code, "text": str(error)}}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
