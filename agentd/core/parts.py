"""The table of an upload's parts: what each covers, which are accepted, what to do with one that is offered.

Part ``n`` (from 0) covers ``[n * part_size, min((n + 1) * part_size, size))``: only the last may be short, and an
empty upload has no parts (wire contract, section 1.5). Memory grows with the accepted parts, every question but
``missing`` is answered in constant time.
"""

from enum import Enum
from typing import NamedTuple

import msgspec

from agentd.errors import PartConflict, PartOutOfRange, PartSizeMismatch


class Span(NamedTuple):
    offset: int
    length: int


class Digests(NamedTuple):
    """Of a part's bytes: xxh3-128 (16 bytes) always, SHA-256 (32 bytes) where the client declared it."""

    xxh3: bytes
    sha256: bytes | None


class Offer(Enum):
    WRITE = "not there yet: write it"
    STORED = "the same bytes are accepted: answer without reading"
    COMPARE = "accepted, but not known to be the same: hash the body and compare"


def part_size_for(size: int, wanted: int, max_parts: int, unit: int = 1 << 20) -> int:
    """``wanted``, grown in whole ``unit`` so that ``size`` bytes make at most ``max_parts`` parts."""
    if size <= wanted * max_parts:
        return wanted
    least = -(-size // max_parts)
    return -(-least // unit) * unit


class PartTable(msgspec.Struct):
    size: int
    part_size: int
    accepted_bytes: int = 0
    accepted: dict[int, Digests] = msgspec.field(default_factory=dict)
    _frontier: int = 0  # no part below it is missing

    @property
    def count(self) -> int:
        return -(-self.size // self.part_size)

    @property
    def next_part(self) -> int | None:
        """The lowest missing part number; None when none is missing."""
        return self._frontier if self._frontier < self.count else None

    @property
    def prefix_bytes(self) -> int:
        """How many bytes from the start are accepted without a gap."""
        return min(self._frontier * self.part_size, self.size)

    def span(self, number: int) -> Span:
        """Where part ``number`` lies, in bytes; PartOutOfRange for a number the upload does not have."""
        if not 0 <= number < self.count:
            there = f"0 to {self.count - 1}" if self.count else "none: the upload is empty"
            raise PartOutOfRange(f"there is no part {number}: the parts are {there}", part_number=number)
        offset = number * self.part_size
        return Span(offset, min(self.part_size, self.size - offset))

    def check_length(self, number: int, length: int) -> None:
        """PartSizeMismatch unless ``length`` is what the part takes."""
        expected = self.span(number).length
        if length != expected:
            raise PartSizeMismatch(
                f"part {number} has to be {expected} bytes long and {length} came",
                part_number=number,
                expected=expected,
                received=length,
            )

    def offer(self, number: int, length: int | None, sha256: bytes | None) -> Offer:
        """What to do with a part of ``length`` bytes (None: not known yet) and that declared digest.

        Raises PartOutOfRange, PartSizeMismatch, and PartConflict where other bytes are accepted already.
        """
        self.check_length(number, self.span(number).length if length is None else length)
        stored = self.accepted.get(number)
        if stored is None:
            return Offer.WRITE
        if sha256 is None or stored.sha256 is None:
            return Offer.COMPARE
        if sha256 != stored.sha256:
            raise self.conflict(number)
        return Offer.STORED

    def same(self, number: int, digests: Digests) -> None:
        """PartConflict unless these are the digests of the accepted part."""
        if self.accepted[number].xxh3 != digests.xxh3:
            raise self.conflict(number)

    def conflict(self, number: int) -> PartConflict:
        return PartConflict(
            f"part {number} is accepted with other content, and accepted bytes never change: "
            "send the same bytes, or abort and create a new upload",
            part_number=number,
        )

    def accept(self, number: int, digests: Digests) -> None:
        """Counts part ``number``; a second time changes nothing but the digests that are known."""
        if number not in self.accepted:
            self.accepted_bytes += self.span(number).length
        self.accepted[number] = digests
        while self._frontier in self.accepted:
            self._frontier += 1

    def missing(self, most: int = 100) -> list[tuple[int, int]]:
        """The missing part numbers as ranges (first, last), both included; at the most ``most`` of them."""
        ranges: list[tuple[int, int]] = []
        number = self._frontier
        while number < self.count and len(ranges) < most:
            if number in self.accepted:
                number += 1
                continue
            first = number
            while number < self.count and number not in self.accepted:
                number += 1
            ranges.append((first, number - 1))
        return ranges
