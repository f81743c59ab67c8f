"""The wire protocol without I/O (docs/protocol.md): framing, requests, replies, ``taskd.*`` methods."""
