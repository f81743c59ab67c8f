"""Short websocket text frames, read and written without I/O (RFC 6455, 5.2).

Nearly every message is a text in one frame of less than 64 KiB; a client's
frame is masked, a server's is not. Autobahn reads and writes all other frames.
"""

from __future__ import annotations

__all__ = ["PING_INTERVAL", "pong_frame", "read_texts", "text_frame"]

PING_INTERVAL = 20
"""Seconds between two pings of either side, and to answer one: less than the idle time after
which proxies and home routers drop a connection."""

_FINAL_TEXT = 0x81
_MASKED = 0x80
_LENGTH = 0x7F
_TWO_BYTES, _EIGHT_BYTES = 126, 127
_SHORTEST_OF_TWO = 126
_SHORTEST_OF_EIGHT = 0x10000


def text_frame(text: bytes) -> bytes:
    """Return the frame in which a server sends this text (UTF-8), of any length."""
    length = len(text)
    if length < _SHORTEST_OF_TWO:
        return b"\x81%c%b" % (length, text)
    if length < _SHORTEST_OF_EIGHT:
        return b"\x81\x7e%b%b" % (length.to_bytes(2), text)
    return b"\x81\x7f%b%b" % (length.to_bytes(8), text)


def pong_frame(payload: bytes) -> bytes:
    """Return the frame that answers a ping with this payload, which has at most 125 bytes."""
    return b"\x8a%c%b" % (len(payload), payload)


def read_texts(data: bytes, longest: int) -> tuple[list[bytes], int]:
    """Return the texts at the beginning of a client's bytes, and the offset at which they end.

    The bytes from there on are an incomplete frame, another kind of frame, a
    text longer than `longest` bytes or not in UTF-8, or an invalid frame.
    """
    texts: list[bytes] = []
    end = len(data)
    at = 0
    while end - at >= 6 and data[at] == _FINAL_TEXT:
        length = data[at + 1] ^ _MASKED
        start = at + 6
        if length == _TWO_BYTES:
            length = int.from_bytes(data[at + 2 : at + 4])
            start = at + 8
            if length < _SHORTEST_OF_TWO:
                break
        elif length > _LENGTH or length == _EIGHT_BYTES:  # not masked, or long
            break
        after = start + length
        if after > end or length > longest:
            break
        text = _unmasked(data[start:after], data[start - 4 : start], length)
        if not text.isascii() and not _is_utf8(text):
            break
        texts.append(text)
        at = after
    return texts, at


def _unmasked(masked: bytes, mask: bytes, length: int) -> bytes:
    """Unmask all bytes at once, as one number: a loop over them would cost more than all the rest."""
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(masked) ^ int.from_bytes(key)).to_bytes(length)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
