"""Requests for what reads many entries, and trees to ask for."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.conftest import Answer, Daemon

NDJSON = {"Accept": "application/x-ndjson"}


@dataclass(frozen=True)
class Reader:
    """One directory of the sandbox, and the routes that read it. path: in sandbox terms; here: as the test sees it."""

    daemon: Daemon
    here: Path

    @property
    def path(self) -> str:
        return f"/{self.here.relative_to(self.daemon.root)}"

    def get(self, route: str, headers: Mapping[str, str] | None = None, **query: object) -> Answer:
        text = urlencode({"path": self.path, **query}, doseq=True, errors="surrogateescape")
        return self.daemon.call("GET", f"/v1/{route}?{text}", None, headers)

    def post(self, route: str, headers: Mapping[str, str] | None = None, **body: object) -> Answer:
        return self.daemon.call("POST", f"/v1/files/{route}", {"path": self.path, **body}, headers)

    def listed(self, **query: object) -> list[Any]:
        answer = self.get("files", **query)
        assert answer.status == 200, answer.body
        return answer.json()

    def names(self, **query: object) -> list[str]:
        """Paths below the directory, as the contract's array has them."""
        return [entry["path"].removeprefix(f"{self.path}/") for entry in self.listed(**query)]

    def lines(self, **query: object) -> list[Any]:
        return [json.loads(line) for line in self.get("entries", NDJSON, **query).body.splitlines()]

    def pages(self, **query: object) -> list[list[str]]:
        """The names of each page until there is no cursor."""
        found, cursor = [], {}
        while True:
            page = self.get("entries", **query, **cursor).json()
            found.append([entry["path"].removeprefix(f"{self.path}/") for entry in page["entries"]])
            if "cursor" not in page:
                return found
            cursor = {"cursor": page["cursor"]}

    def tar(self, **query: object) -> tarfile.TarFile:
        answer = self.get("archive", **query)
        assert answer.status == 200, answer.body
        return tarfile.open(fileobj=io.BytesIO(answer.body), errors="surrogateescape")


def make(here: Path, *names: str) -> None:
    """Files with their own name as content; directories where a name ends in a slash."""
    for name in names:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(os.fsencode(name))
