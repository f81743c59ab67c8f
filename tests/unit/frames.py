"""Websocket frames made and read by hand, for tests of the fast path."""

import zlib

from hypothesis import strategies as st

LONGEST = 3000
"""Bytes of the longest message in these tests."""

TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def client_frame(payload, opcode=TEXT, *, final=True, mask=b"\x01\xfe\x00\x80", length=None, rsv=0):
    """Make a frame as a client sends it; `length` is the size of its length field, if not the least."""
    size = len(payload)
    first = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if length == 8 or (length is None and size >= 65536):
        header = bytes([bit | 127]) + size.to_bytes(8)
    elif length == 2 or (length is None and size >= 126):
        header = bytes([bit | 126]) + size.to_bytes(2)
    else:
        header = bytes([bit | size])
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return first + header + (mask or b"") + payload


COMPRESSED = 4
"""The bit of a compressed message, among the reserved bits of a frame."""


def compressed_frames(text, pieces=1, bits=12):
    """Make the frames of a compressed message, in about so many pieces; the window has 2**`bits` bytes."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    data = data.removesuffix(b"\0\0\xff\xff")
    size = len(data) // pieces + 1
    starts = range(0, len(data), size)
    return [
        client_frame(
            data[at : at + size],
            CONTINUED if at else TEXT,
            final=at == starts[-1],
            rsv=0 if at else COMPRESSED,
        )
        for at in starts
    ]


def server_texts(data):
    """Return the texts of a server's frames; there must be no other frames."""
    texts = []
    while data:
        assert data[0] == 0x81, "a final text"
        size, start = data[1], 2
        assert size < 128, "not masked"
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start])
            assert size >= (126 if start == 4 else 65536), "the length takes more bytes than needed"
        texts.append(data[start : start + size])
        assert len(texts[-1]) == size
        data = data[start + size :]
    return texts


texts = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(str.encode),
    st.sampled_from([0, 125, 126, 127, 500, LONGEST]).map(bytes),
)
utf8 = st.text(max_size=200).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
