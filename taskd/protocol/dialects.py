"""The two forms that a request and its reply may have."""

from __future__ import annotations

from enum import Enum

__all__ = ["BARE", "JSON_RPC", "Dialect"]


class Dialect(Enum):
    """The two forms of a request (docs/protocol.md); each message shows which one it is in."""

    BARE = "bare"
    JSON_RPC = "JSON-RPC 2.0"


# The hot paths use these names: in Python 3.11, looking up a member of an
# enumeration takes as long as a whole function call.
BARE, JSON_RPC = Dialect
