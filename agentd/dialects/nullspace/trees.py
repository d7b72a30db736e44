"""A directory as a whole, and a file's digests: our own additions beside the wire contract."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.nullspace.search import Patterns
from agentd.dialects.values import user_name
from agentd.files.archive import Archive, Archives
from agentd.files.checksum import Checksum
from agentd.files.globs import Ignore
from agentd.files.operations import Files
from agentd.files.traversal import batches
from agentd.files.usage import Counting, Measuring
from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.linux.places import Places
from agentd.linux.threads import in_thread

_TYPES = {
    "tar": "application/x-tar",
    "tar.gz": "application/gzip",
    "tar.zst": "application/zstd",
    "zip": "application/zip",
}

Algorithm = Literal["sha256", "sha512", "sha1", "md5", "blake2b", "xxh3_128", "xxh3_64"]


class ArchiveParams(Struct):
    path: str = "."
    format: Literal["tar", "tar.gz", "tar.zst", "zip"] = "tar"
    ignore: Patterns = []
    skip_unreadable: Annotated[bool, Meta(description="leave out what cannot be read, which else cuts it off")] = False
    user: str | None = None


class UsageBody(Struct):
    path: str
    one_file_system: Annotated[bool, Meta(description="without mounts below it")] = False
    user: str | None = None


class UsageInfo(Struct):
    """apparent_bytes: of the files' content. allocated_bytes: of the disk, for directories and links too. unread: paths
    that could not be read. A file with several names counts once."""

    apparent_bytes: int
    allocated_bytes: int
    files: int
    directories: int
    links: int
    others: int
    unread: int


class ChecksumBody(Struct):
    path: str
    algorithms: Annotated[list[Algorithm], Meta(max_length=7, description="absent or none: sha256")] = []
    user: str | None = None


class ChecksumInfo(Struct):
    """size: bytes that were read. digests: in hex, by algorithm."""

    path: str
    size: int
    digests: dict[str, str]


class TreeRows:
    def __init__(self, archives: Archives, measuring: Measuring, files: Files, places: Places) -> None:
        self._archives = archives
        self._measuring = measuring
        self._files = files
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/archive", "archive.read", self.archive),
                params=ArchiveParams,
                sends=tuple(_TYPES.values()),
                summary="Send a directory as one archive, made on the way",
                errors=(*PATH_ERRORS, errors.InvalidRequest, errors.NotSupported),
            ),
            Endpoint(
                *("POST", "/files/usage", "files.usage", self.usage),
                body=UsageBody,
                result=UsageInfo,
                summary="Count what is in a directory and the room it takes",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/checksum", "files.checksum", self.checksum),
                body=ChecksumBody,
                result=ChecksumInfo,
                summary="Compute digests of a file",
                errors=(*PATH_ERRORS, errors.IsADirectory, errors.Conflict, errors.StorageFailed),
            ),
        )

    async def archive(self, call: Call) -> StreamResult:
        archive = await in_thread(self._archive, call.params)
        chunks = batches(archive.chunks, archive.rights, 1, b"".join)
        return StreamResult(chunks, _TYPES[call.params.format], name=f"{archive.name}.{call.params.format}")

    async def usage(self, call: Call) -> UsageInfo:
        counting = await in_thread(self._counting, call.data)
        await _exhausted(batches(counting.chunks, counting.rights, 1, list))
        found = counting.usage
        return UsageInfo(
            *(found.apparent, found.allocated, found.files, found.directories, found.links, found.others, found.unread)
        )

    async def checksum(self, call: Call) -> ChecksumInfo:
        checksum = await in_thread(self._checksum, call.data)
        await _exhausted(batches(checksum.chunks, (), 1, list))
        return ChecksumInfo(checksum.path, checksum.size, checksum.digests)

    def _archive(self, asked: ArchiveParams) -> Archive:
        place = self._places.find(asked.path, user_name(asked.user))
        return self._archives.open(place, asked.format, Ignore(asked.ignore), skip_unreadable=asked.skip_unreadable)

    def _counting(self, asked: UsageBody) -> Counting:
        place = self._places.find(asked.path, user_name(asked.user))
        return self._measuring.usage(place, one_file_system=asked.one_file_system)

    def _checksum(self, asked: ChecksumBody) -> Checksum:
        return Checksum(
            self._files, self._places.find(asked.path, user_name(asked.user)), asked.algorithms or ["sha256"]
        )


async def _exhausted(steps: AsyncGenerator[object, None]) -> None:
    async with aclosing(steps):
        async for _ in steps:
            pass
