"""For the tests of programs that use taskd."""

from taskd.testing.client import MemoryTaskClient

__all__ = ["MemoryTaskClient"]
