"""`twistd` as the soak starts it: it tells whoever connects to its socket how much memory it has allocated.

The resident memory of a process depends on the highest load so far, on how the allocators have placed what
they keep, and on the machine. What is allocated, after a collection, does not: it is the same whenever the
daemon has the same to do. The environment has the path of the socket, and, to see that a leak is found, the
number of bytes to leak with each task.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import sys
import threading
from typing import Any

from twisted.scripts.twistd import run

__all__ = ["LEAK", "SOCKET"]

SOCKET = "SOAK_MEMORY"
LEAK = "SOAK_LEAK"

WORDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo(ctypes.Structure):
    """The struct mallinfo2 of the C library."""

    _fields_ = [(name, ctypes.c_size_t) for name in WORDS.split()]


def _answer(listener: socket.socket) -> None:
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    while True:
        connection, _ = listener.accept()
        gc.collect()
        allocated = mallinfo()
        answer = {
            "blocks": sys.getallocatedblocks(),  # of up to 512 bytes, in Python's own arenas
            "malloc": allocated.uordblks + allocated.hblkhd,  # everything else, in bytes
        }
        with connection:
            connection.sendall(json.dumps(answer).encode())


def _leak(size: int) -> None:
    from taskd.server.completion import Completion

    kept: list[bytes] = []
    complete = Completion.complete

    def complete_and_leak(self: Completion, *args: Any, **named: Any) -> None:
        kept.append(os.urandom(size))
        complete(self, *args, **named)

    Completion.complete = complete_and_leak  # type: ignore[method-assign]


if __name__ == "__main__":
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.environ.pop(SOCKET))
    listening.listen()
    threading.Thread(target=_answer, args=(listening,), daemon=True).start()
    if leaked := int(os.environ.pop(LEAK, "0")):
        _leak(leaked)
    run()
