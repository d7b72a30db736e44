"""Bytes that come in pieces, as text."""


def whole(content: bytes) -> int:
    """How many bytes of ``content`` there are before a UTF-8 character that is cut off at its end (RFC 3629).

    All of them where it ends with a whole character, or with what can become none.
    """
    for back in range(1, min(3, len(content)) + 1):
        byte = content[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(content) - back if back < length and byte < 0xF5 else len(content)
    return len(content)
