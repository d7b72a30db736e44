"""Text replaced in files, each of them as a whole (see `writing`). All functions here block."""

from collections.abc import Sequence

import msgspec

from agentd.errors import InvalidRequest, RequestTooLarge
from agentd.files.operations import Files
from agentd.files.patterns import Pattern, compiled
from agentd.files.writing import Writing
from agentd.linux.places import Place
from agentd.linux.steps import Steps

SIZE_LIMIT = 64 << 20  # bytes of a file that is edited
_LOOKED_AT = 8000  # bytes at its beginning that tell whether a file is text


class Replaced(msgspec.Struct):
    """Numbers. skipped: of files that stayed as they are, binary ones apart: no match, or larger than
    `SIZE_LIMIT`, before or then."""

    replacements: int = 0
    modified: int = 0
    skipped: int = 0
    binary: int = 0


class Editing:
    def __init__(self, files: Files, writing: Writing) -> None:
        self._files = files
        self._writing = writing

    def replace(
        self, places: Sequence[Place], pattern: str, replacement: str, *, literal: bool | None = None
    ) -> Steps[Replaced]:
        """Puts the text ``replacement`` for every match of ``pattern`` in each of the files.

        literal: True takes the pattern as it stands, False as a regular expression (see `patterns`); None as it stands
        in files that hold it so, else as an expression. A file with a NUL byte at its beginning is binary and left.

        Every file is looked for before the first is changed: NotFound, IsADirectory, InvalidRequest come before that.
        """
        _encoded(pattern)
        text = _encoded(replacement)
        wanted = [compiled(pattern, literal=literal)]
        if literal is None:
            wanted.insert(0, compiled(pattern, literal=True))
        for place in places:
            self._files.open(place).close()
        result = Replaced()
        for place in places:
            yield from self._replace_in(place, wanted, text, result)
        return result

    def _replace_in(self, place: Place, wanted: Sequence[Pattern], replacement: bytes, result: Replaced) -> Steps[None]:
        try:
            text = self._files.read(place, SIZE_LIMIT)
        except RequestTooLarge:
            result.skipped += 1
            return
        if b"\0" in text[:_LOOKED_AT]:
            result.binary += 1
            return
        for pattern in wanted:
            try:
                changed, count = yield from pattern.replaced(text, replacement, SIZE_LIMIT)
            except RequestTooLarge:
                break
            if count:
                self._writing.write(place, memoryview(changed))
                result.replacements += count
                result.modified += 1
                return
        result.skipped += 1


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{text!r} has lone surrogates, which are no text") from None
