"""Fakes for the tests of programs that use taskd: a client that needs no server."""

from taskd.testing.client import MemoryTaskClient

__all__ = ["MemoryTaskClient"]
