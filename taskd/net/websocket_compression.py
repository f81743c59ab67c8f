"""Compressed websocket messages (RFC 7692), bounded in memory: nothing is kept from one message to the next.

So an idle websocket costs nothing, and a message while it is compressed a few KiB. What a client sends is
unpacked by Autobahn, up to the longest message.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from taskd.protocol.websocket_frames import text_frame

__all__ = ["LEAST_COMPRESSED", "MOST_COMPRESSED", "accepted", "compressed_frame"]

WINDOW_BITS = 12
"""The window is 4 KiB: with `MEMORY_LEVEL`, compressing a message takes 32 KiB at most, unpacking 11."""

MEMORY_LEVEL = 5

LEVEL = 1
"""The fastest one: JSON becomes a fifth as long with it, and little shorter with others."""

LEAST_COMPRESSED = 1024
"""Bytes of a message that is compressed: shorter ones fit into a packet anyway."""

MOST_COMPRESSED = 1024 * 1024
"""Bytes of a message that is compressed: that takes 10 ms, in which nobody is served."""

_SYNC = b"\x00\x00\xff\xff"
"""The end of a flushed stream, which is left out (RFC 7692, 7.2.1)."""

_FINAL_COMPRESSED_TEXT = 0xC1
_SHORTEST_OF_TWO, _SHORTEST_OF_EIGHT = 126, 0x10000


def accepted(max_message: int, offers: Sequence[object]) -> PerMessageDeflateOfferAccept | None:
    """Return how an offer of a client is accepted, None if there is none that can be.

    A message has at most `max_message` bytes when it is unpacked. Browsers accept all of this.
    """
    for offer in offers:
        if not isinstance(offer, PerMessageDeflateOffer) or not offer.accept_no_context_takeover:
            continue
        bits = offer.request_max_window_bits or WINDOW_BITS
        if bits < 9:  # zlib cannot do it
            continue
        return PerMessageDeflateOfferAccept(
            offer,
            request_no_context_takeover=True,
            request_max_window_bits=WINDOW_BITS if offer.accept_max_window_bits else 0,
            no_context_takeover=True,
            window_bits=min(bits, WINDOW_BITS),
            mem_level=MEMORY_LEVEL,
            max_message_size=max_message,
        )
    return None


def compressed_frame(text: bytes, window_bits: int) -> bytes:
    """Return the frame in which a server sends this text, compressed if its length makes that worth while."""
    if not LEAST_COMPRESSED <= len(text) <= MOST_COMPRESSED:
        return text_frame(text)
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -window_bits, MEMORY_LEVEL)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    data = data.removesuffix(_SYNC)
    length = len(data)
    if length < _SHORTEST_OF_TWO:
        return b"%c%c%b" % (_FINAL_COMPRESSED_TEXT, length, data)
    if length < _SHORTEST_OF_EIGHT:
        return b"%c\x7e%b%b" % (_FINAL_COMPRESSED_TEXT, length.to_bytes(2), data)
    return b"%c\x7f%b%b" % (_FINAL_COMPRESSED_TEXT, length.to_bytes(8), data)
