"""Files found by content (``find``) and by name (``search``): section 2.1 of the wire contract."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from msgspec import Meta, Struct

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.streams import JSON, array, lines, wants_lines
from agentd.dialects.values import user_name
from agentd.files.globs import Glob, Ignore
from agentd.files.patterns import compiled
from agentd.files.search import Failure, Match, Matches, Names, Search
from agentd.files.traversal import batches
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.http.events import NDJSON
from agentd.linux.places import Place, Places
from agentd.linux.threads import in_thread

TRUNCATED = "X-Truncated"
_TOGETHER = 1000  # entries
_MOST = 10_000  # matches of an array
_MOST_CHARACTERS = 16 << 20

Patterns = Annotated[list[str], Meta(max_length=1000, description="of names to leave out, as in a .gitignore")]


class FindBody(Struct):
    path: str
    pattern: str
    user: str | None = None
    literal: Annotated[bool, Meta(description="absent: an expression, or a plain text where it is none")] | None = None
    ignore_case: bool = False
    limit: Annotated[int, Meta(ge=1, le=100_000, description="of matches")] | None = None
    ignore: Patterns = []


class SearchBody(Struct):
    path: str
    pattern: Annotated[str, Meta(description="*.py is any such name, src/**/*.py a path below the directory")]
    user: str | None = None
    ignore: Patterns = []


class SearchRows:
    def __init__(self, room: Search, places: Places) -> None:
        self._search = room
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/files/find", "files.find", self.find),
                body=FindBody,
                result=list[Match],
                sends=(NDJSON,),
                summary="Find lines by an expression (RE2) or a text; where there are more than the limit, the header "
                f"{TRUNCATED} is there, or the last line of NDJSON says so",
                errors=(*PATH_ERRORS, errors.InvalidRequest),
            ),
            Endpoint(
                *("POST", "/files/search", "files.search", self.search),
                body=SearchBody,
                result=list[str],
                summary="Find paths by a pattern for names",
                errors=(*PATH_ERRORS, errors.InvalidRequest),
            ),
        )

    async def find(self, call: Call) -> StreamResult:
        matches = await in_thread(self._matches, call.data)
        if wants_lines(call):
            return StreamResult(_found(matches, call.data.limit), NDJSON)
        limit = call.data.limit or _MOST
        kept: list[Match] = []
        size = 0
        async with aclosing(batches(matches.chunks, matches.rights, _TOGETHER, _only_matches)) as found:
            async for batch in found:
                kept += batch
                size += sum(len(match.content) for match in batch)
                if len(kept) > limit or size > _MOST_CHARACTERS:
                    break
        is_truncated = len(kept) > limit or size > _MOST_CHARACTERS
        headers = {TRUNCATED: str(min(limit, len(kept)))} if is_truncated else {}
        return StreamResult(_one(encode(kept[:limit])), JSON, headers)

    async def search(self, call: Call) -> StreamResult:
        names = await in_thread(self._names, call.data)
        return StreamResult(array(batches(names.chunks, names.rights, _TOGETHER, encode)), JSON)

    def _matches(self, asked: FindBody) -> Matches:
        pattern = compiled(asked.pattern, literal=asked.literal, ignore_case=asked.ignore_case, in_line=True)
        return self._search.content(self._place(asked), pattern, Ignore(asked.ignore))

    def _names(self, asked: SearchBody) -> Names:
        return self._search.names(self._place(asked), Glob(asked.pattern), Ignore(asked.ignore))

    def _place(self, asked: FindBody | SearchBody) -> Place:
        return self._places.find(asked.path, user_name(asked.user))


async def _found(matches: Matches, limit: int | None) -> AsyncGenerator[bytes, None]:
    """Lines of matches and failures, and one more where there are more matches."""
    left = limit
    async with aclosing(batches(matches.chunks, matches.rights, _TOGETHER, list)) as found:
        async for batch in found:
            if left is not None and len(batch) > left:
                yield lines([*batch[:left], {"truncated": True}])
                return
            yield lines(batch)
            left = None if left is None else left - len(batch)


def _only_matches(batch: list[Match | Failure]) -> list[Match]:
    return [found for found in batch if isinstance(found, Match)]


async def _one(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
