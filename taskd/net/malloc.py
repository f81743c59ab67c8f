"""The C library's allocator: memory that was freed is given back to the kernel."""

from __future__ import annotations

import ctypes

__all__ = ["LONG_BLOCK", "M_MMAP_THRESHOLD", "give_back_free_memory", "map_long_blocks_alone"]

M_MMAP_THRESHOLD = -3
"""A parameter of glibc's mallopt(3)."""

LONG_BLOCK = 1024 * 1024
"""Bytes from which a block is mapped by itself, and unmapped when it is freed."""


def map_long_blocks_alone() -> None:
    """Have blocks of at least `LONG_BLOCK` mapped alone, for as long as the process runs.

    By default glibc raises that threshold, up to 32 MiB, when such a block is
    freed. Then messages that grow side by side leave holes in the heap. Does
    nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LONG_BLOCK)


def give_back_free_memory() -> None:
    """Give the free pages of the heap back to the kernel, at about 0.3 ms for each MiB.

    By default glibc gives back only what is free at its end, and one small block
    there keeps all of it. Does nothing with another C library.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
