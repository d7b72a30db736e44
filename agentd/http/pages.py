"""The pages for people, ``/console`` and ``/docs``: one document and its files, sent as they lie in the package.

They hold no secret, so no token is asked for; what they show is fetched with the token that the person gives them. A
Content-Security-Policy (W3C, level 3) lets them load and ask nothing but this daemon, and run no script that stands in
a document. All their references are relative, so they work behind a proxy that puts a prefix before them.
"""

import hashlib
import os
import re

from msgspec import Struct

from agentd.errors import NotFound
from agentd.http.endpoint import Call, Endpoint, TextResult
from agentd.linux.threads import in_thread

FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "console")
DOCUMENT = "console.html"
NAME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z]+)(?![\s\S])")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again by its ETag: a newer daemon brings newer pages
}


class FileParams(Struct):
    file: str


class Pages:
    """The rows of the pages. A file is read when it is first asked for, and kept."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[str, str]] = {}

    def endpoints(self) -> tuple[Endpoint, ...]:
        kept = {"If-None-Match": "the ETag of what the client has; 304 where that is still all there is"}
        return (
            Endpoint(
                *("GET", "/console", "console", self.document),
                public=True,
                sends=("text/html",),
                also=((304, None),),
                headers=kept,
                summary="The console: files, uploads, terminals and processes in a browser",
            ),
            Endpoint(
                *("GET", "/docs", "docs", self.document),
                public=True,
                sends=("text/html",),
                also=((304, None),),
                headers=kept,
                summary="This API in a browser",
            ),
            Endpoint(
                *("GET", "/console/{file}", "console.file", self.file),
                params=FileParams,
                public=True,
                sends=("text/javascript", "text/css", "image/svg+xml", "text/plain"),
                also=((304, None),),
                headers=kept,
                summary="What the console consists of",
                errors=(NotFound,),
            ),
        )

    async def document(self, call: Call) -> TextResult:
        return await self._send(call, DOCUMENT)

    async def file(self, call: Call) -> TextResult:
        return await self._send(call, call.params.file)

    async def _send(self, call: Call, name: str) -> TextResult:
        named = NAME.match(name)
        kind = TYPES.get(named[1]) if named else None
        if kind is None:
            raise NotFound("the console has no such file")
        if name not in self._read:
            self._read[name] = await in_thread(_load, name)
        text, tag = self._read[name]
        headers = {**HEADERS, "ETag": tag}
        if tag in call.headers.get("If-None-Match", ""):
            return TextResult("", kind, 304, headers)
        return TextResult(text, kind, headers=headers)


def _load(name: str) -> tuple[str, str]:
    """Text and entity tag (RFC 9110 section 8.8.3) of a file of the console. NotFound."""
    try:
        with open(os.path.join(FOLDER, name), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise NotFound("the console has no such file") from None
    return content.decode(), f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
