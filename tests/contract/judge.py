"""Answers held against an OpenAPI document, in a process that has jsonschema and needs nothing of this project.

The document is named as the argument. A line of JSON comes in for every answer: ``method``, ``path`` (the template),
``status``, ``headers`` (by lower-case name) and ``body`` (text). A line goes out: a list of what is wrong with it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

document = json.loads(Path(sys.argv[1]).read_text())


def resolved(part: Any) -> Any:
    while "$ref" in part:
        found = document
        for key in part["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        part = found
    return part


def violations(value: Any, schema: Any) -> list[str]:
    """Every ``$ref`` is of the document, which stands around the schema."""
    rules = Draft202012Validator({**document, "allOf": [schema]}, format_checker=FormatChecker())
    return [f"{error.json_path}: {error.message}" for error in rules.iter_errors(value)]


def faults(answer: Any) -> list[str]:
    responses = document["paths"][answer["path"]][answer["method"].lower()]["responses"]
    if str(answer["status"]) not in responses:
        return [f"the status {answer['status']} is not among {', '.join(responses)}"]
    response = resolved(responses[str(answer["status"])])
    found = []
    for name, header in response.get("headers", {}).items():
        value = answer["headers"].get(name)
        if value is None and header.get("required"):
            found.append(f"there is no header {name}")
        elif value is not None:
            found += violations(value, header["schema"])
    kind = answer["headers"].get("content-type", "").partition(";")[0]
    content = response.get("content", {})
    if kind not in content:
        return [*found, f"the content type {kind!r} is not among {', '.join(content)}"]
    return found + violations(json.loads(answer["body"]), content[kind]["schema"])


for line in sys.stdin:
    print(json.dumps(faults(json.loads(line))), flush=True)
